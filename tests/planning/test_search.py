"""Where the search looks, on memory that behaves as real memory does; and what is tried when nothing fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.planning import plan, search
from avemo_jax.planning.chips import parse_topology
from tests.planning.examples import GIB, facts, published, refused

LIMIT = int(15.75 * GIB)


def memory_of(size: int, state=3 * GIB, clip=GIB // 8, bend=0.0) -> int:
    """Linear in the batch, flatter where the compiler begins to recompute by itself."""
    peak = state + clip * size
    return int(min(peak, LIMIT * (1 - bend) + max(0, peak - LIMIT * (1 - bend)) / 3) if bend else peak)


@pytest.mark.parametrize("first", [1, 4, 64, 500])
@pytest.mark.parametrize("clip", [GIB // 100, GIB // 8, GIB])
@pytest.mark.parametrize("bend", [0.0, 0.2])
def test_the_largest_batch_is_found_in_a_few_compiles(first, clip, bend):
    compiled = []

    def compile_batch(size):
        compiled.append(size)
        peak, batch = memory_of(size, clip=clip, bend=bend), size * 256
        if peak > LIMIT:
            return refused(batch_size=batch, needed_bytes=peak)
        known = facts(batch_size=batch)
        known.memory.peak = peak
        return known

    best = search.largest_batch(compile_batch(first), 256, LIMIT, compile_batch)
    found = best.batch_size // 256
    truth = max(size for size in range(1, 5000) if memory_of(size, clip=clip, bend=bend) <= LIMIT)
    assert best.fits and found <= truth
    assert found >= 0.85 * truth or truth - found <= 1
    assert len(compiled) == len(set(compiled)) <= 1 + search.TRIALS


def test_where_not_even_one_clip_fits_there_is_no_largest_batch():
    def never(size):
        return refused(batch_size=256 * size, needed_bytes=40 * GIB)

    assert search.largest_batch(never(8), 256, LIMIT, never) is None


def test_what_costs_least_is_tried_first_and_division_only_where_the_state_is_large():
    config = load_config("hicmae:base")
    assert list(search.ways_to_fit(config, refused(), LIMIT)) == [
        ("remat=dots",),
        ("remat=full",),
        ("mesh.fsdp=4",),
        ("mesh.fsdp=4", "remat=full"),
    ]
    small = refused(parameter_shard_bytes=GIB // 8, optimizer_shard_bytes=GIB // 4)
    assert list(search.ways_to_fit(config, small, LIMIT)) == [("remat=dots",), ("remat=full",)]


def test_what_is_set_already_is_not_offered_again():
    config = load_config("hicmae:base", ("remat=full",))
    divided = refused(mesh={"replica": 1, "data": 64, "fsdp": 4, "tensor": 1}, parameter_shard_bytes=4 * GIB)
    assert list(search.ways_to_fit(config, divided, LIMIT)) == [("mesh.fsdp=32",)]


def test_the_first_ways_that_fit_are_reported_and_no_more_are_compiled():
    tried = []

    def compile_with(changes):
        tried.append(changes)
        return facts() if "remat=full" in changes else refused()

    config = load_config("hicmae:base")
    (first,) = search.first_that_fit(config, refused(), LIMIT, compile_with, enough=1)
    assert first.changes == ("remat=full",) and tried == [("remat=dots",), ("remat=full",)]


@pytest.mark.parametrize(
    ("overrides", "unit"),
    [
        (("accumulate=4",), 1024),
        (("contrast.negatives=local", "contrast.group_size=40"), 1280),
        (("contrast.negatives=local", "contrast.group_size=40", "accumulate=4"), 5120),
        (
            ("contrast.negatives=local", "contrast.group_size=40", "accumulate=8", "contrast.cached=True"),
            10240,
        ),
    ],
)
def test_only_batches_that_the_config_can_cut_up_are_compiled(monkeypatch, overrides, unit):
    def compile_step(config, *_):
        assert config.batch_size % unit == 0
        known = facts(batch_size=config.batch_size)
        known.memory.peak = memory_of(config.batch_size // 256, clip=GIB // 100)
        return known if known.memory.peak <= LIMIT else refused(batch_size=config.batch_size)

    monkeypatch.setattr(plan, "compile_step", compile_step)
    config = load_config("hicmae:base", overrides)
    made = plan.make_plan("hicmae:base", config, overrides, parse_topology("v5e:16x16"), say=lambda _: None)
    assert made.asked.facts.batch_size == max(unit, -(-config.batch_size // unit) * unit)
    assert made.largest.facts.batch_size >= 0.8 * 1275 * 256


def test_a_size_that_is_refused_is_too_large_and_ends_no_plan(monkeypatch):
    def compile_step(config, *_):
        if config.batch_size > 256 * 12:
            raise UserError("the compiler ended with code 1")
        return facts(batch_size=config.batch_size)

    monkeypatch.setattr(plan, "compile_step", compile_step)
    config, said = load_config("hicmae:base"), []
    place = parse_topology("v5e:16x16")
    made = plan.make_plan("hicmae:base", config, (), place, batch_per_chip=8, scaling=True, say=said.append)
    assert made.asked.facts.batch_size == 2048 and made.largest.facts.batch_size == 3072
    assert [place.chips for place, _ in made.scaling] == [4, 8, 64, 256]
    assert any("refused: the compiler ended" in line for line in said)


def test_there_is_a_published_plan_of_every_method_and_of_its_text_stage_with_its_batch(monkeypatch):
    methods = {path.stem for path in (Path(__file__).parents[2] / "configs/pretrain").glob("*.py")}
    own = {"hicmae_text", "vaemo_text"}
    after = {f"text_after:{method}" for method in methods if f"{method}_text" not in own}
    assert published().keys() == methods | own | after

    monkeypatch.setattr(plan, "compile_step", lambda config, *_: facts(batch_size=config.batch_size))
    place = parse_topology("v5e:16x16")
    for name, (_, batch, *_) in published().items():
        config = load_config(f"{name}:base")
        made = plan.make_plan(name, config, (), place, look_for_batch=False, say=lambda _: None)
        assert f"{made.asked.facts.batch_size:,}" == batch, name
