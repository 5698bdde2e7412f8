"""The time model's arithmetic, by hand."""

from __future__ import annotations

import pytest

from avemo_jax.planning.chips import GENERATIONS
from avemo_jax.planning.roofline import predict, seconds
from tests.planning.examples import facts, gradients

V5E, V7X = GENERATIONS["v5e"], GENERATIONS["tpu7x"]


def test_the_roofline_is_the_longer_of_products_and_memory():
    guess = predict(facts(), V5E)
    assert guess.compute_s == pytest.approx(2e12 / 197e12)
    assert guess.memory_s == pytest.approx(40e9 / 819e9)
    assert guess.bound_s == guess.memory_s and guess.intensity == pytest.approx(50)
    assert predict(facts(flops=20 * 10**12), V5E).bound_s == pytest.approx(20e12 / 197e12)


def test_a_step_is_the_device_and_the_collectives_that_nothing_hides():
    all_reduce = 2 * 255 / 256 * 200e6 / 200e9 + 10 * 2 * 16 * 1e-6
    guess = predict(facts(), V5E)
    assert guess.exposed_s == pytest.approx(all_reduce)
    assert guess.step_s == pytest.approx(40e9 / 819e9 + all_reduce)
    assert guess.clips_per_s == pytest.approx(2048 / guess.step_s)
    assert guess.utilisation == pytest.approx(500e12 / (256 * 197e12 * guess.step_s))


def test_without_an_estimate_products_reach_half_of_the_peak_with_one_it_is_taken():
    assert predict(facts(flops=20 * 10**12), V5E).device_s == pytest.approx(2 * 20e12 / 197e12)
    cycles = int(0.1 * V5E.clock_hz)
    assert predict(facts(cycles=cycles), V5E).device_s == pytest.approx(0.1)


def test_what_runs_beside_computation_costs_only_what_is_longer_than_it():
    hidden = predict(facts(collectives=[gradients(overlapped=True)]), V5E)
    assert hidden.step_s == hidden.device_s and hidden.hidden_s > 0
    long = predict(facts(collectives=[gradients(overlapped=True, bytes=200_000_000_000)]), V5E)
    assert long.step_s == pytest.approx(seconds(gradients(bytes=200_000_000_000), V5E))


@pytest.mark.parametrize(
    "changes, passes, bandwidth, hops",
    [
        ({"kind": "all-gather", "group": 16, "reach": (16, 1, 1)}, 15 / 16, 100e9, 8),
        ({"kind": "reduce-scatter", "group": 16, "reach": (1, 16, 1)}, 15 / 16, 100e9, 8),
        ({"kind": "collective-permute", "group": 2, "reach": (2, 1, 1)}, 1, 100e9, 1),
        ({"network": "dcn", "group": 4, "reach": ()}, 2 * 3 / 4, 25e9 / 8, 0),
    ],
)
def test_a_collective_takes_the_links_of_the_dimensions_that_it_spans(changes, passes, bandwidth, hops):
    row = gradients(**changes)
    assert seconds(row, V5E) == pytest.approx(passes * 200e6 / bandwidth + 10 * hops * 1e-6)


def test_the_two_devices_of_a_chip_share_its_peak_and_its_links():
    row = gradients(reach=(4, 4, 4))
    assert seconds(row, V7X) == pytest.approx(2 * 255 / 256 * 2 * 200e6 / 600e9 + 10 * 2 * 6 * 1e-6)
    assert predict(facts(devices_per_chip=2), V7X).compute_s == pytest.approx(2e12 / (2307e12 / 2))
    assert seconds(gradients(group=2, reach=(1, 1, 1)), V7X) == 0  # inside a chip
