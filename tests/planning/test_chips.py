"""Topology names, and the table of generations."""

from __future__ import annotations

import pytest

from avemo_jax.errors import UserError
from avemo_jax.planning.chips import GENERATIONS, parse_topology


@pytest.mark.parametrize(
    "name, slices, chips, devices",
    [
        ("v5e:16x16", 1, 256, 256),
        ("v5e:16x16", 4, 1024, 1024),
        ("v5p:4x4x4", 1, 64, 64),
        ("tpu7x:2x2x1", 2, 8, 16),
        ("cpu:8", 1, 8, 8),
    ],
)
def test_a_name_says_how_many_chips_and_devices_there_are(name, slices, chips, devices):
    topology = parse_topology(name, slices)
    assert (topology.chips, topology.devices) == (chips, devices)


@pytest.mark.parametrize(
    "name, slices, said",
    [
        ("v5litepod-256", 1, "there are v4, v5e, v5p, v6e, tpu7x and cpu, written as v5e:16x16"),
        ("v5e:4x4x4", 1, "v5e chips lie in 2 dimension(s), as in v5e:4x4"),
        ("v5p:16x16", 1, "as in v5p:4x4x4"),
        ("v5e:0x4", 1, "as in v5e:4x4"),
        ("v5e:32x32", 1, "--topology v5e:16x16 --slices 4"),
        ("v5e:16x16", 0, "--slices is 0"),
        ("cpu:8", 2, "CPU devices have no slices"),
    ],
)
def test_a_name_that_is_none_is_answered_with_what_to_write(name, slices, said):
    with pytest.raises(UserError) as error:
        parse_topology(name, slices)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_clocks_that_follow_from_the_table_are_those_that_are_published():
    # Jouppi et al. 2023 give 1,050 MHz for v4; Austin et al. 2025 give 1.5 GHz for v5e.
    assert GENERATIONS["v4"].clock_hz == pytest.approx(1.05e9, rel=0.01)
    assert GENERATIONS["v5e"].clock_hz == pytest.approx(1.5e9, rel=0.01)
    assert all(0.9e9 < generation.clock_hz < 2.5e9 for generation in GENERATIONS.values())
