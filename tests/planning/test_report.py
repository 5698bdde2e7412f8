"""What a reader gets: the table, the promised JSON fields, the page."""

from __future__ import annotations

import json
import re

import pytest

from avemo_jax.planning import page, report
from avemo_jax.planning.chips import parse_topology
from avemo_jax.planning.plan import Plan, Sized
from avemo_jax.planning.roofline import predict
from tests.planning.examples import GIB, facts, gradients, refused

TOPOLOGY = parse_topology("v5e:16x16")
PROMISED = {
    "chips", "hosts", "batch_per_chip", "hbm_peak_bytes_per_chip", "hbm_limit_bytes_per_chip", "fits",
    "model_flops_per_step", "hardware_flops_per_step_per_chip", "collectives", "largest_batch_per_chip",
    "predicted_step_s", "predicted_clips_per_s", "host_clips_per_s", "host_bytes_per_s",
}  # fmt: skip


def sized(known, changes=()):
    return Sized(known, predict(known, TOPOLOGY.generation) if known.fits else None, changes)


def plan_of(asked, **more):
    return Plan("hicmae:base", TOPOLOGY, sized(asked), searched=True, **more)


def test_the_promised_fields_are_there_and_agree_with_each_other():
    written = json.loads(report.to_json(plan_of(facts(), largest=sized(facts(batch_size=8192)))))
    assert written.keys() >= PROMISED
    assert (written["chips"], written["hosts"], written["batch_per_chip"], written["fits"]) == (
        256,
        64,
        8,
        True,
    )
    assert written["hbm_peak_bytes_per_chip"] == 6 * GIB and written["hbm_limit_bytes_per_chip"] == int(
        15.75 * GIB
    )
    assert written["largest_batch_per_chip"] == 32
    assert (
        written["collectives"][0].items() >= {"kind": "all-reduce", "bytes": 200_000_000, "count": 10}.items()
    )
    assert written["predicted_clips_per_s"] == pytest.approx(2048 / written["predicted_step_s"])
    assert written["host_clips_per_s"] == pytest.approx(written["predicted_clips_per_s"] / 64)
    assert written["host_bytes_per_s"] == pytest.approx(written["host_clips_per_s"] * 1_310_720)


def test_a_step_that_does_not_fit_has_no_speed_and_says_what_to_change():
    instead = [sized(facts(remat="full"), ("remat=full",))]
    plan = plan_of(refused(), largest=sized(facts(batch_size=1024)), instead=instead)
    written = json.loads(report.to_json(plan))
    assert written.keys() >= PROMISED and not written["fits"] and written["predicted_step_s"] is None
    text = report.to_text(plan)
    assert "exceeds 15.75G" in text
    assert "it fits with a smaller batch: 4 clips a chip (--config.batch_size=1024)" in text
    assert "it fits with --config.remat=full: peak 6.00 GiB a chip" in text


def test_where_nothing_fits_that_is_said():
    assert "nothing that was tried fits" in report.to_text(plan_of(refused()))


def test_activations_that_are_moved_and_arrays_that_are_not_divided_are_warned_of():
    moved = facts(collectives=[gradients(), gradients(kind="all-to-all", purpose="other")])
    assert "warning: 50% of what chips say" in report.to_text(plan_of(moved))
    whole = facts(replicated=["opt_state/0/mu/video/blocks/attn/qkv"])
    assert "opt_state/0/mu/video/blocks/attn/qkv is whole on every device" in report.to_text(plan_of(whole))
    assert "warning" not in report.to_text(plan_of(facts()))


def test_efficiency_is_the_speed_of_a_chip_over_that_on_the_fewest():
    few = sized(facts(chips=4, batch_size=32, hosts=1, collectives=[]))
    many = sized(facts())
    scaling = [
        (parse_topology("v5e:2x2"), few),
        (TOPOLOGY, many),
        (parse_topology("v5e:16x16", 4), sized(refused())),
    ]
    rows = json.loads(report.to_json(plan_of(facts(), scaling=scaling)))["scaling"]
    expected = many.prediction.device_s / many.prediction.step_s  # of the same clips a chip
    assert [row["efficiency"] for row in rows] == [1, pytest.approx(expected), None]
    assert "does not fit" in report.to_text(plan_of(facts(), scaling=scaling))


def test_columns_are_as_wide_as_what_stands_in_them():
    assert report.align([["", "MB"], ["all-reduce", "200.0"], ["x", "1.0"]]) == [
        "               MB",
        "all-reduce  200.0",
        "x             1.0",
    ]


def test_the_page_holds_the_figures_and_the_drawing_and_fetches_nothing():
    text = page.to_html(plan_of(facts(), largest=sized(facts(batch_size=8192))))
    assert "<svg" in text and "largest batch" in text and "where parameters lie" in text.lower()
    assert not re.search(r"(src|href)=[\"']?https?:|@import|<script", text)
    assert len(text) < 200_000
