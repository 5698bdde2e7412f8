"""A plan in words and numbers: aligned text for the terminal, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from avemo_jax.planning.chips import Generation
from avemo_jax.planning.collectives import Collective
from avemo_jax.planning.facts import Facts
from avemo_jax.planning.plan import Plan, Sized
from avemo_jax.planning.purposes import SCALAR
from avemo_jax.planning.roofline import ASSUMPTIONS, seconds

_GIB, _MB = 2**30, 1e6
Table = list[list[str]]


def to_text(plan: Plan) -> str:
    """The whole report."""
    facts = plan.asked.facts
    mesh = " × ".join(f"{axis} {size}" for axis, size in facts.mesh.items())
    lines = [
        f"{plan.name} on {plan.topology.title}: {facts.chips} chips, {facts.hosts} hosts, mesh {mesh}, "
        f"{facts.dtype}, remat {facts.remat}",
        *(f"chosen: {note}" for note in plan.notes),
        "",
        *align(summary(plan)),
        "",
        *verdict(plan),
        *_section("what chips say to each other in a step, as asked", collective_rows(plan)),
        *_section("state", state_rows(facts)),
        *_section("scaling at the same clips a chip", scaling_rows(plan)),
        "",
        f"where parameters lie: {_divided(facts)}; --out and --json have the table",
    ]
    if plan.topology.generation:
        lines += ["", "times are a model:", *(f"  - {line}" for line in ASSUMPTIONS)]
    return "\n".join(lines)


def to_json(plan: Plan) -> str:
    """The fields that scripts may rely on, and everything else that was found out."""
    generation, asked = plan.topology.generation, plan.asked
    report = {
        "config": plan.name,
        "topology": plan.topology.name,
        "slices": plan.topology.slices,
        **_figures(asked, generation),
        "largest_batch_per_chip": plan.largest.facts.batch_per_chip if plan.largest else None,
        "largest": _figures(plan.largest, generation) if plan.largest else None,
        "instead": [_figures(one, generation) for one in plan.instead],
        "scaling": [
            {"topology": place.name, "slices": place.slices, **_figures(one, generation), "efficiency": share}
            for (place, one), share in zip(plan.scaling, _efficiencies(plan), strict=True)
        ],
        "notes": plan.notes,
        "assumptions": list(ASSUMPTIONS) if generation else [],
    }
    return json.dumps(report, indent=1, ensure_ascii=False) + "\n"


def summary(plan: Plan) -> Table:
    """Figures of what was asked beside those of the largest batch and of layouts that fit."""
    columns = [("as asked", plan.asked)]
    if plan.largest and plan.largest.facts is not plan.asked.facts:
        columns.append(("largest batch", plan.largest))
    columns += [(" ".join(one.changes), one) for one in plan.instead]
    rows = [["", *(title for title, _ in columns)]]
    for place, (label, *_) in enumerate(_lines(plan.asked, plan.topology.generation)):
        cells = [_lines(one, plan.topology.generation)[place][1] for _, one in columns]
        if any(cells):
            rows.append([label, *cells])
    return rows


def collective_rows(plan: Plan) -> Table:
    """One line a kind, purpose and network; single numbers are left out."""
    generation = plan.topology.generation
    rows = [["kind", "for", "network", "of", "MB", "times", "", *(["ms"] if generation else [])]]
    for row in plan.asked.facts.collectives:
        if row.purpose == SCALAR:
            continue
        how = "beside computation" if row.overlapped else "waits"
        time = [f"{1e3 * seconds(row, generation):.2f}"] if generation else []
        network = {"ici": "inside a slice", "dcn": "between slices"}[row.network]
        count = f"{row.count}" if row.counted else f"{row.count} or more"
        members = f"{row.group} {'slices' if row.network == 'dcn' else 'devices'}"
        rows.append([row.kind, row.purpose, network, members, f"{row.bytes / _MB:.2f}", count, how, *time])
    return rows if len(rows) > 1 else []


def state_rows(facts: Facts) -> Table:
    """Bytes of parameters and optimiser, whole and on one device."""
    if not facts.parameter_bytes:
        return []
    rows = [["", "whole, GiB", "on a device, GiB", "share"]]
    for name, total, shard in (
        ("parameters", facts.parameter_bytes, facts.parameter_shard_bytes),
        ("optimiser", facts.optimizer_bytes, facts.optimizer_shard_bytes),
    ):
        rows.append([name, f"{total / _GIB:.3f}", f"{shard / _GIB:.3f}", f"{shard / max(total, 1):.3f}"])
    return rows


def scaling_rows(plan: Plan) -> Table:
    """One line a number of chips."""
    if not plan.scaling:
        return []
    rows = [
        [
            "chips",
            "topology",
            "mesh",
            "peak GiB",
            "device ms",
            "collectives ms",
            "step ms",
            "clips/s",
            "efficiency",
        ]
    ]
    for (place, one), share in zip(plan.scaling, _efficiencies(plan), strict=True):
        mesh = " × ".join(f"{axis} {size}" for axis, size in one.facts.mesh.items() if size > 1)
        row = [f"{place.chips}", place.title, mesh, f"{one.facts.peak_bytes / _GIB:.2f}"]
        if one.prediction:
            times = (one.prediction.device_s, one.prediction.exposed_s, one.prediction.step_s)
            row += [f"{1e3 * time:.1f}" for time in times]
            row += [f"{one.prediction.clips_per_s:,.0f}", f"{share:.1%}" if share else "-"]
        else:
            row += ["does not fit", "", "", "", ""]
        rows.append(row)
    return rows


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns side by side, the first to the left, numbers to the right."""
    if not rows:
        return []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numeric = [
        all(not row[c] or row[c][0].isdigit() or row[c] in "-" for row in rows[1:])
        for c in range(len(rows[0]))
    ]
    return [
        "  ".join(
            f"{cell:>{width}}" if right else f"{cell:<{width}}"
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    ]


def _lines(one: Sized, generation: Generation | None) -> list[tuple[str, str]]:
    """(label, value) of each figure; a value is empty where it is not known. Same labels for every size."""
    facts, memory, guess = one.facts, one.facts.memory, one.prediction
    scale, per_chip = facts.devices_per_chip, facts.devices_per_chip / _GIB
    limit = f", of {generation.hbm_limit * scale / _GIB:.2f}" if generation else ""

    def gib(value: int | None) -> str:
        return "" if value is None else f"{value * per_chip:.2f}"

    def ms(value: float | None) -> str:
        return "" if value is None else f"{1e3 * value:.1f}"

    fits = "" if generation is None else "yes" if facts.fits else "no"
    return [
        ("clips a chip", f"{facts.batch_per_chip:g}"),
        ("clips a step", f"{facts.batch_size}"),
        ("fits", fits),
        (f"peak memory of a chip, GiB{limit}", gib(facts.peak_bytes)),
        ("  arguments (state and batch)", gib(memory.arguments if memory else None)),
        ("  outputs, in the arguments' place", gib(memory.aliased if memory else None)),
        ("  temporaries", gib(memory.temporaries if memory else None)),
        ("model FLOPs of a step, TF", f"{facts.model_flops / 1e12:.2f}"),
        ("hardware FLOPs of a chip, TF", f"{facts.flops * scale / 1e12:.3f}" if facts.flops else ""),
        ("  over the model's", f"{facts.flops * scale * facts.chips / facts.model_flops:.3f}" if facts.flops else ""),
        ("memory traffic of a chip, GB", f"{facts.hbm_bytes * scale / 1e9:.2f}" if guess else ""),
        ("arithmetic intensity, FLOP a byte", f"{guess.intensity:.1f}" if guess else ""),
        ("roofline, ms", ms(guess.bound_s) if guess else ""),
        ("  products at peak, ms", ms(guess.compute_s) if guess else ""),
        ("  memory at full bandwidth, ms", ms(guess.memory_s) if guess else ""),
        ("predicted step, ms", ms(guess.step_s) if guess else ""),
        ("  on the device, ms", ms(guess.device_s) if guess else ""),
        ("  collectives that it waits for, ms", ms(guess.exposed_s) if guess else ""),
        ("  collectives beside computation, ms", ms(guess.hidden_s) if guess else ""),
        ("predicted clips/s", f"{guess.clips_per_s:,.0f}" if guess else ""),
        ("model FLOPs over peak", f"{guess.utilisation:.1%}" if guess else ""),
        ("each host delivers, clips/s", f"{_host_rate(one):,.0f}" if guess else ""),
        ("each host sends, MB/s", f"{_host_rate(one) * facts.clip_bytes / _MB:,.1f}" if guess else ""),
    ]  # fmt: skip


def _figures(one: Sized, generation: Generation | None) -> dict[str, Any]:
    """One size as JSON values."""
    facts, guess, scale = one.facts, one.prediction, one.facts.devices_per_chip
    skipped = {
        "collectives",
        "placements",
        "memory",
        "needed_bytes",
        "flops",
        "hbm_bytes",
        "fits",
        "model_flops",
    }
    rate = _host_rate(one) if guess else None
    return {
        "changes": list(one.changes),
        "batch_per_chip": facts.batch_per_chip,
        "hbm_peak_bytes_per_chip": facts.peak_bytes * scale,
        "hbm_limit_bytes_per_chip": generation.hbm_limit * scale if generation else None,
        "fits": facts.fits,
        "model_flops_per_step": facts.model_flops,
        "hardware_flops_per_step_per_chip": facts.flops * scale if facts.fits else None,
        "hbm_traffic_bytes_per_step_per_chip": facts.hbm_bytes * scale if facts.fits else None,
        "collectives": [_collective(row, generation) for row in facts.collectives],
        "predicted_step_s": guess.step_s if guess else None,
        "predicted_clips_per_s": guess.clips_per_s if guess else None,
        "prediction": guess._asdict() if guess else None,
        "host_clips_per_s": rate,
        "host_bytes_per_s": rate * facts.clip_bytes if rate else None,
        "memory_per_device": dataclasses.asdict(facts.memory) if facts.memory else None,
        **{key: value for key, value in dataclasses.asdict(facts).items() if key not in skipped},
    }


def _collective(row: Collective, generation: Generation | None) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "seconds": seconds(row, generation) if generation else None}


def _host_rate(one: Sized) -> float:
    """Clips a second that each host must read."""
    assert one.prediction  # asked for where there is one
    return one.facts.host_clips / one.prediction.step_s


def _efficiencies(plan: Plan) -> list[float | None]:
    """Clips a second and chip, over those of the smallest scale."""
    rates = [
        one.prediction.clips_per_s / one.facts.chips if one.prediction else None for _, one in plan.scaling
    ]
    first = next((rate for rate in rates if rate), None)
    return [rate / first if rate and first else None for rate in rates]


def _section(title: str, rows: Table) -> list[str]:
    return ["", title, *(f"  {line}" for line in align(rows))] if rows else []


def _divided(facts: Facts) -> str:
    """How many of the arrays a mesh of several weight axes divides, in words."""
    rows = facts.placements.splitlines()[1:]
    divided = sum(not row.endswith("replicated") for row in rows)
    axes = [axis for axis in ("fsdp", "tensor") if facts.mesh[axis] > 1]
    if not axes:
        return "whole on every device, as mesh.fsdp and mesh.tensor are 1"
    return f"{divided} of {len(rows)} arrays are divided over {' and '.join(axes)}"


def verdict(plan: Plan) -> list[str]:
    """What to take from the figures, in sentences."""
    facts, lines = plan.asked.facts, []
    if not facts.fits:
        lines.append(f"does not fit; the compiler: {facts.refusal}")
    if plan.largest:
        most = plan.largest.facts
        words = "largest batch that fits" if facts.fits else "  it fits with a smaller batch"
        lines.append(f"{words}: {most.batch_per_chip:g} clips a chip (--config.batch_size={most.batch_size})")
    for one in plan.instead:
        change = " ".join(f"--config.{change}" for change in one.changes)
        peak = one.facts.peak_bytes * facts.devices_per_chip / _GIB
        speed = f", {one.prediction.clips_per_s:,.0f} clips/s" if one.prediction else ""
        lines.append(f"  it fits with {change}: peak {peak:.2f} GiB a chip{speed}")
    if not facts.fits and not plan.largest and not plan.instead and plan.searched:
        lines.append("  nothing that was tried fits: take more or larger chips, or a smaller model")
    for path in facts.replicated:
        lines.append(f"warning: {path} is whole on every device although the mesh divides weights")
    if facts.unexplained_share > 0.01:
        lines.append(
            f"warning: {facts.unexplained_share:.0%} of what chips say is neither parameters, gradients nor contrast: "
            "the compiler moves activations"
        )
    return lines
