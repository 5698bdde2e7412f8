"""The linear probe's fits beside scikit-learn's LogisticRegression over the same grid, in one run.

    python benchmarks/probe.py [--clips 7442] [--width 2048] [--folds 5] [--inner_folds 0] [--penalties 1e-5,…]
        [--json FILE]

Both sides fit every C on the training clips of every fold, standardised by them, and predict the fold's test clips;
with `--inner_folds` they also fit it without each of so many parts of the training clips, as `avemo probe` does. Each
has `--cores` cores in a process of its own and the same float32 features, which are drawn: correlated columns of
falling variance, six classes that overlap, speakers that folds keep whole. scikit-learn has its defaults (L-BFGS,
tolerance 1e-4) and as many iterations as it wants; where penalties are weak that stops well before the optimum, so
accuracies are compared with a second run of it, of tolerance 1e-5. Ours is timed as a first call, with compiling,
and as a second one of the same shapes.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, NamedTuple

import measuring
import numpy as np

CLASSES, SPEAKERS = 6, 91  # CREMA-D's
SIDES = ("ours", "peer", "exact")
SIGNAL = 0.18  # of class means to the clips' deviation, in a fifth of all directions


class Grid(NamedTuple):
    """What both sides fit."""

    clips: int
    width: int
    folds: int
    inner_folds: int
    penalties: tuple[float, ...]


def draw(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features float32 [clips, width], labels, folds and inner folds int [clips]."""
    clips, width = grid.clips, grid.width
    rng = np.random.default_rng(0)
    label, speaker = rng.integers(CLASSES, size=clips), np.sort(rng.integers(SPEAKERS, size=clips))
    vectors = rng.standard_normal((clips, width), np.float32)
    vectors += rng.standard_normal((SPEAKERS, width), np.float32)[speaker]
    told = rng.standard_normal((CLASSES, width), np.float32) * (rng.random(width) < 0.2)
    vectors = (vectors + SIGNAL * told[label]) / np.sqrt(1 + np.arange(width, dtype=np.float32))
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0].astype(np.float32)
    scale, shift = np.exp(rng.standard_normal(width)), rng.standard_normal(width)
    features = (vectors @ turn * scale + shift).astype(np.float32)
    return features, label, speaker % grid.folds, speaker // grid.folds % max(1, grid.inner_folds)


def ours(grid: Grid) -> dict[str, Any]:
    """Times, the predicted class of each clip [C, clips], and whether all converged."""
    features, label, fold, part = draw(grid)
    import jax  # not timed, as scikit-learn's import is not

    from avemo_jax.evaluation.heads import linear
    from avemo_jax.evaluation.heads.examples import centre_views
    from avemo_jax.evaluation.protocols import Split

    jax.devices()
    splits = []
    for f in range(grid.folds):
        inner = np.where((fold != f) & (grid.inner_folds > 0), part, -1)
        splits.append(Split(str(f), np.flatnonzero(fold != f), np.flatnonzero(fold == f), inner, ""))
    examples = centre_views(label, CLASSES)
    figures = {}
    for call in ("first", "second"):
        wall, cpu = time.monotonic(), time.process_time()
        scored = linear.fit(features, examples, splits, grid.penalties)
        figures[f"{call}_cpu_s"], figures[f"{call}_s"] = time.process_time() - cpu, time.monotonic() - wall
    predicted = np.zeros((len(grid.penalties), grid.clips), int)
    for split, one in zip(splits, scored, strict=True):
        predicted[:, split.test] = one.predicted[:, split.test].argmax(-1)
    return {**figures, "predicted": predicted, "converged": all(one.converged for one in scored)}


def peer(grid: Grid, tolerance: float) -> dict[str, Any]:
    """The same of scikit-learn; `iterations` of all fits."""
    features, label, fold, part = draw(grid)
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    predicted, iterations = np.zeros((len(grid.penalties), grid.clips), int), 0
    wall, cpu = time.monotonic(), time.process_time()
    for f in range(grid.folds):
        train, test = fold != f, fold == f
        scaler = StandardScaler().fit(features[train])
        inputs, tested = scaler.transform(features[train]), scaler.transform(features[test])
        for row, penalty in enumerate(grid.penalties):
            for out in range(grid.inner_folds):
                kept = part[train] != out
                model = LogisticRegression(C=penalty, tol=tolerance, max_iter=10_000)
                model.fit(inputs[kept], label[train][kept])
                iterations += int(model.n_iter_.max())
            model = LogisticRegression(C=penalty, tol=tolerance, max_iter=10_000)
            model.fit(inputs, label[train])
            predicted[row, test] = model.predict(tested)
            iterations += int(model.n_iter_.max())
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    return {"cpu_s": cpu, "wall_s": wall, "predicted": predicted, "iterations": iterations}


def compare(args: argparse.Namespace) -> dict[str, Any]:
    penalties = tuple(sorted(float(word) for word in args.penalties.split(",")))
    grid = Grid(args.clips, args.width, args.folds, args.inner_folds, penalties)
    env = {"OMP_NUM_THREADS": str(args.cores), "OPENBLAS_NUM_THREADS": str(args.cores)}
    mine = measuring.apart(ours, grid, cores=args.cores, env=env)
    theirs, exact = (
        measuring.apart(peer, grid, tolerance, cores=args.cores, env=env) for tolerance in (1e-4, 1e-5)
    )
    label = draw(grid)[1]
    predicted = [side.pop("predicted") for side in (mine, theirs, exact)]
    rows = [
        {"inverse_penalty": penalty}
        | dict(zip(SIDES, (float((one == label).mean()) for one in by_side), strict=True))
        for penalty, *by_side in zip(penalties, *predicted, strict=True)
    ]
    apart = max(100 * abs(row["ours"] - row["exact"]) for row in rows)
    ratio = theirs["cpu_s"] / mine["second_cpu_s"]
    return {
        **grid._asdict(),
        "cores": args.cores,
        "fits": args.folds * (1 + args.inner_folds) * len(penalties),
        "accuracy": rows,
        **dict(zip(SIDES, (mine, theirs, exact), strict=True)),
        "ratio": ratio,
        "ratio_with_compiling": theirs["cpu_s"] / mine["first_cpu_s"],
        "ratio_exact": exact["cpu_s"] / mine["second_cpu_s"],
        "goals": measuring.goals(
            {
                "times scikit-learn's speed, CPU time": (ratio, "at least", 5),
                "the same, as hoped for": (ratio, "at least", 20),
                "accuracy apart at any C, points": (apart, "at most", 0.2),
            }
        ),
        "machine": measuring.machine("jax", "scikit-learn", "numpy"),
    }


def text(figures: dict[str, Any]) -> str:
    mine = figures["ours"]
    sides = {
        "scikit-learn": (figures["peer"]["cpu_s"], figures["peer"]["wall_s"]),
        "scikit-learn, tolerance 1e-5": (figures["exact"]["cpu_s"], figures["exact"]["wall_s"]),
        "avemo_jax, with compiling": (mine["first_cpu_s"], mine["first_s"]),
        "avemo_jax": (mine["second_cpu_s"], mine["second_s"]),
    }
    times = [["", "CPU s", "wall s", "times scikit-learn"]]
    for name, (cpu, wall) in sides.items():
        times.append([name, f"{cpu:.1f}", f"{wall:.1f}", f"{figures['peer']['cpu_s'] / cpu:.1f}"])
    rows = [["C", "avemo_jax", "scikit-learn", "tolerance 1e-5"]]
    for row in figures["accuracy"]:
        rows.append([f"{row['inverse_penalty']:g}", *(f"{100 * row[side]:.2f}" for side in SIDES)])
    return (
        f"{figures['clips']} clips × {figures['width']} features, {figures['fits']} fits, "
        f"{figures['cores']} cores a side\n\n{measuring.table(times)}\n\naccuracy, per cent\n{measuring.table(rows)}"
    )


def main() -> None:
    parser = measuring.flags(__doc__)
    add = parser.add_argument
    add("--clips", type=int, default=7442)
    add("--width", type=int, default=2048, help="features of a clip")
    add("--folds", type=int, default=5)
    add(
        "--inner_folds",
        type=int,
        default=0,
        help="parts of the training clips that fits leave out in turn (0)",
    )
    add("--penalties", default="1e-5,1e-4,1e-3,3e-3,1e-2,3e-2,1e-1,1", help="values of C, comma-separated")
    add("--cores", type=int, default=1, help="of each side")
    args = parser.parse_args()
    measuring.need("sklearn", "the other side")
    measuring.report(args, figures := compare(args), text(figures))


if __name__ == "__main__":
    main()
