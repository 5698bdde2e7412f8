"""The rows of `suites` as people read them: aligned text, per cent, intervals in brackets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from avemo_jax.evaluation import calibration
from avemo_jax.evaluation.aligning import aligned
from avemo_jax.evaluation.corruptions import SWAPPED
from avemo_jax.evaluation.outcome_files import IN_OWN_UNIT, shown, speakers_in_words, table
from input_pipeline.targets import Target

Row = dict[str, Any]
_NONE = "–"  # a number that there is not
_MOST_GROUPS = 12  # that a table of fairness shows, the lowest and the highest of more


def text(results: dict[str, list[Row]]) -> str:
    """Every suite that was asked, one below the other."""
    return "\n\n".join(_TABLES[name](rows) for name, rows in results.items())


def _calibration(rows: Sequence[Row]) -> str:
    lines = [
        (
            "model",
            "n",
            "UAR",
            "sure",
            "ECE",
            "",
            "ACE",
            "Brier",
            "",
            "CE",
            "AURC",
            "",
            "errors of surest 80 %",
            "T",
            "ECE at T",
        )
    ]
    for row in rows:
        lines.append(
            (
                _name(row), str(row["n"]), _cent(row["uar"]), _cent(row["confidence"]), _cent(row["ece"]),
                _bounds(row["ece_ci95"]), _cent(row["ace"]), f"{row['brier']:.3f}", _bounds(row["brier_ci95"], "brier"),
                f"{row['cross_entropy']:.3f}", _cent(row["aurc"]), _bounds(row["aurc_ci95"]),
                _cent(row["risk_at_80"]), f"{row['temperature']:.2f}",
                _cent(row["tempered"]["ece"]) if row["tempered"] else _NONE,
            )
        )  # fmt: skip
    tied = max(row["tied"] for row in rows)
    return (
        f"calibration\n{aligned(lines)}\nsure: mean confidence; CE: cross-entropy in nats; AURC: area under the "
        f"risk-coverage curve; ECE at T: with temperatures that are fitted on {calibration.fitted_on(rows)}"
        + (f"; {tied} clips without one class that has the most votes are left out" if tied else "")
    )


def _fairness(rows: Sequence[Row]) -> str:
    parts = ["fairness"]
    for row in rows:
        gap = row["gap"]
        scores = scores_of_groups(row["groups"][0])
        lines = [(row["trait"], "n", "speakers", *(word for name in scores for word in (name.upper(), "")))]
        for one in row["groups"]:
            values = ((_shown(name, one[name]), _bounds(one[f"{name}_ci95"], name)) for name in scores)
            lines.append((one["group"], str(one["n"]), str(one["speakers"]), *itertools.chain(*values)))
        if len(lines) > _MOST_GROUPS + 1:
            first = scores[0]
            order = sorted(zip(row["groups"], lines[1:], strict=True), key=lambda pair: _low(pair[0][first]))
            half, left = [line for _, line in order], len(order) - _MOST_GROUPS
            between = (f"… {left} between", *[""] * (len(lines[0]) - 1))
            lines = [lines[0], *half[: _MOST_GROUPS // 2], between, *half[-_MOST_GROUPS // 2 :]]
        said = f"{_name(row)}\n{aligned(lines)}"
        if gap["gap"] is not None:
            score = gap["score"]
            unit = "" if score in IN_OWN_UNIT else " points"
            said += (
                f"\ngap of {score.upper()} {_shown(score, gap['gap'])}{unit} {_bounds(gap['gap_ci95'], score)}, "
                f"{gap['best']} over {gap['worst']}; {_shown(score, gap['expected'])} by chance, p = {gap['p']:.3f} "
                f"(groups dealt anew to {gap['permuted']}s {gap['draws']} times)"
            )
        parts.append(said + (f"; {row['unknown']} clips of unknown group" if row["unknown"] else ""))
    return "\n\n".join(parts)


def scores_of_groups(group: Row) -> list[str]:
    """The scores that have intervals in a row of `groups.by_group`, in order."""
    return [name.removesuffix("_ci95") for name in group if name.endswith("_ci95")]


def _paired(rows: Sequence[Row]) -> str:
    lines: list[tuple[str, ...]] = [
        ("paired", "score", "here", "there", "difference", "", "p permutation", "McNemar")
    ]
    for row in rows:
        for name in (key.removesuffix("_against") for key in row if key.endswith("_against")):
            first = name == row["score"]
            both = (_shown(name, row[name]), _shown(name, row[f"{name}_against"]))
            apart = row[f"{name}_difference"]
            chance = (f"{row['p_permutation']:.3f}", f"{row['p_mcnemar']:.3f}" if "p_mcnemar" in row else "")
            lines.append(
                (
                    _name(row) if first else "", name.upper(), *both, f"{'+' * (apart >= 0)}{_shown(name, apart)}",
                    _bounds(row[f"{name}_difference_ci95"], name), *(chance if first else ("", "")),
                )
            )  # fmt: skip
    said = [
        f"{_name(row)} is compared with {_name({'model': row['against']})}"
        for row in rows
        if row["model"] != row["against"]
    ]
    first = rows[0]
    known = f"{first['n']} clips, {first['groups']} {first['ci_unit']}s drawn and swapped; difference: here minus there"
    return f"{aligned(lines, left=(0, 1))}\n{'; '.join([known, *said])}"


def _conflict(rows: Sequence[Row]) -> str:
    lines: list[tuple[str, ...]] = [("modality conflict", "n", "face", "voice", "other", "face of both", "")]
    for row in rows:
        counts = (str(row[name]) for name in ("n", "face", "voice", "other"))
        lines.append((_name(row), *counts, _cent(row["face_share"]), _bounds(row["ci95"])))
    for row in rows:
        human = row["raters"]
        counts = (str(human[name]) for name in ("face", "voice", "other"))
        line = ("raters who had both", str(row["n"]), *counts, _cent(human["face_share"]), "")
        lines += [line] if line not in lines else []
    return aligned(lines)


def _retrieval(rows: Sequence[Row]) -> str:
    lines = [("retrieval", "layer", "", "R@1", "", "R@5", "R@10", "median rank")]
    for row in rows:
        for way in ("video_to_audio", "audio_to_video"):
            one = row[way]
            weights = row["weights"] if row["weights"] == "checkpoint" else f"random {row['seed']}"
            recalls = (_cent(one["r5"]), _cent(one["r10"]), f"{one['median_rank']:g}")
            name = way.replace("_to_", " → ")
            lines.append(
                (weights, str(row["layer"]), name, _cent(one["r1"]), _bounds(one["r1_ci95"]), *recalls)
            )
    chance = ", ".join(_cent(value) for value in rows[0]["chance"].values())
    lacking = f" ({rows[0]['lacking']} others lack picture or sound)" if rows[0].get("lacking") else ""
    return f"{aligned(lines)}\nof {rows[0]['n']} clips{lacking}; by chance R@1, R@5, R@10 are {chance}"


def _robustness(rows: Sequence[Row]) -> str:
    """A table a model; rows of probes name the feature."""
    models: dict[str, list[Row]] = {}
    for row in rows:
        models.setdefault(row.get("feature", ""), []).append(row)
    return "\n\n".join(_robustness_of(name, own) for name, own in models.items())


def _robustness_of(model: str, rows: Sequence[Row]) -> str:
    score = rows[0]["score"]
    is_class = "kept" in rows[0]
    lines: list[tuple[str, ...]] = [
        (f"robustness {model}".rstrip(), score.upper(), "change", "", "stays" if is_class else "")
    ]
    for row in rows:
        name = row["corruption"].replace("_", " ")
        if len(row["unit"]):
            name += f", {row['level']:g} {row['unit']}"
        low, high = (_shown(score, bound) for bound in row["change_ci95"])
        kept = _cent(row["kept"]) if is_class else ""
        values = (_shown(score, row[score]), _shown(score, row["change"]))
        lines.append((name, *values, f"[{low}, {high}]", kept))
    first = rows[0]
    swapped = [row for row in rows if row["corruption"] in SWAPPED]
    relied = [
        f"{row['stream']} {_cent(row['reliance'])} {_bounds(row.get('reliance_ci95'))}".strip()
        for row in swapped
        if "reliance" in row
    ]
    followed = [
        f"{row['stream']} {_cent(row['follows_donor'])} {_bounds(row['follows_donor_ci95'])}, "
        f"{_cent(row['follows_donor_clean'])} as they are"
        for row in swapped
        if "follows_donor" in row
    ]
    known = f"{first['n']} test clips of {speakers_in_words(first['speakers'])}"
    step = f", step {first['step']}" if first["step"] is not None else " of each clip's own fold"
    known += f", weights: {first['selection']}{step}; stays: the share of predictions that do"
    if relied:
        known += f"; reliance, the share of the {score.upper()} lost with another clip's: {', '.join(relied)}"
    if followed:
        known += "; follows the donor, the share of clips that get the class of the clip whose it is, where "
        known += f"that is another: {'; '.join(followed)}"
    return f"{aligned(lines)}\n{known}"


def _cross_corpus(rows: Sequence[Row]) -> str:
    first = rows[0]
    target = Target(first["target"], (first["label"],), tuple(first["outputs"]))
    lines = [
        f"cross-corpus, trained on {', '.join(first['trained_on'])}",
        table(target, rows, first["left_out"]),
    ]
    lacking = [f"{count} without {name}" for name, count in first.get("lacking", {}).items() if count]
    if lacking:
        lines.append(f"note: {' and '.join(lacking)} are tested with black frames or silence in its place")
    return "\n".join(lines)


def _identity(rows: Sequence[Row]) -> str:
    lines: list[tuple[str, ...]] = [("identity leakage", "weights", "UAR", "", "WAR", "size")]
    for row in rows:
        weights = {"none": "-", "random": f"random {row['seed']}"}.get(row["weights"], "checkpoint")
        bounds, size = _bounds(row["ci95"]), str(row["dim"])
        lines.append((row["feature"], weights, _cent(row["uar"]), bounds, _cent(row["war"]), size))
    first = rows[0]
    return (
        f"{aligned(lines, left=(0, 1))}\n{first['n']} clips of {first['speakers']} speakers, chance "
        f"{_cent(first['chance'])}; clips of each speaker are in training and in test"
    )


def _neighbours(rows: Sequence[Row]) -> str:
    if not rows:
        return "neighbours: no label with two values, so there is only the page"
    lines: list[tuple[str, ...]] = [("neighbours", "feature", "weights", "n", "the same", "", "by chance")]
    for row in rows:
        weights = {"none": "-", "random": f"random {row['seed']}"}.get(row["weights"], "checkpoint")
        shares = (_cent(row["precision"]), _bounds(row["precision_ci95"]), _cent(row["chance"]))
        lines.append((row["label"], row["feature"], weights, str(row["n"]), *shares))
    return (
        f"{aligned(lines, left=(0, 1, 2))}\nhow often the {rows[0]['k']} nearest clips of other speakers have a clip's "
        "label"
    )


def _rollout(rows: Sequence[Row]) -> str:
    names = ("video", "audio", "fused_video", "fused_audio")
    lines = [("rollout", *names)]
    lines += [(row["clip_id"], *(_cent(row[name]) for name in names)) for row in rows]
    return f"{aligned(lines)}\nhow much attention comes from the most relevant tenth of patches"


def _zero_shot(rows: Sequence[Row]) -> str:
    first, scores = rows[0], {"UAR": "uar", "WAR": "war", "mAP": "average_precision"}
    return (
        f"{_of_spaces('zero-shot', rows, scores)}\n{_of_first(rows)}{first['n']} clips, label {first['label']}, "
        f"{len(first['classes'])} classes, chance {_cent(first['chance'])}; mAP: mean average precision of clips, "
        f"ranked by each class's prompt; {_maps(rows)}"
    )


def _text_retrieval(rows: Sequence[Row]) -> str:
    first, parts = rows[0], []
    for way in ("text_to_clip", "clip_to_text"):
        scores = {f"R@{k}": f"{way}_r{k}" for k in (1, 5, 10)}
        chance = ", ".join(_cent(first["chance"][name]) for name in scores.values())
        title = way.replace("_to_", " → ")
        parts.append(
            f"{_of_spaces(title, rows, scores, f'{way}_median_rank')}\n{_of_first(rows)}by chance "
            f"{', '.join(scores)} are {chance}"
        )
    said = f"{first['n']} clips with {first['texts']} different texts; {_maps(rows)}"
    return "\n\n".join(parts) + f"\n{_of_first(rows)}{said}"


def _statements(rows: Sequence[Row]) -> str:
    first, scores = rows[0], {"accuracy": "accuracy", "AUC": "auc"}
    return (
        f"{_of_spaces('statements', rows, scores)}\n{_of_first(rows)}{first['n']} statements about "
        f"{first['clips']} clips, {_cent(first['true_share'])} % true; {_maps(rows)}"
    )


def _maps(rows: Sequence[Row]) -> str:
    return f"heads: learnt by alignment; fitted: a linear map of features, fitted on {fitted_on(rows)}"


def fitted_on(rows: Sequence[Row]) -> str:
    """Which descriptions the maps in rows of a suite of texts were fitted on, for people."""
    by_speaker = all(row.get("apart", "speaker") == "speaker" for row in rows)
    return (
        "other speakers' descriptions"
        if by_speaker
        else "descriptions of other clips, whoever speaks in them"
    )


def _of_first(rows: Sequence[Row]) -> str:
    """Before what is said of the first row alone; empty where all rows are of the same clips."""
    return "first row: " if len({row["split_hash"] for row in rows}) > 1 else ""


def _of_spaces(title: str, rows: Sequence[Row], scores: dict[str, str], rank: str = "") -> str:
    """A line a space; differences from the other run's map where there is one, and the number of clips or statements
    where spaces differ in it."""
    compared = any("difference" in row for row in rows)
    counted = ["n"] * bool(_of_first(rows))
    heading = [title, "map", "by", *counted, *(word for name in scores for word in (name, ""))]
    heading += ["median rank"] * bool(rank)
    heading += [word for name in scores for word in (f"{name} against", "")] if compared else []
    lines = [tuple(heading)]
    for row in rows:
        weights = f"random {row['seed']}" if row["weights"] == "random" else row["weights"]
        line = [weights, row["map"], row["by"], *(str(row[name]) for name in counted)]
        for key in scores.values():
            line += [_cent(row[key]), _bounds(row[f"{key}_ci95"])]
        line += [f"{row[rank]:g}"] if rank else []
        if compared:
            gap = row.get("difference")
            for key in scores.values():
                line += [f"{100 * gap[key]:+.1f}", _bounds(gap[f"{key}_ci95"])] if gap else ["", ""]
        lines.append(tuple(line))
    return aligned(lines, left=(0, 1, 2))


_TABLES = {
    "calibration": _calibration,
    "fairness": _fairness,
    "conflict": _conflict,
    "paired": _paired,
    "retrieval": _retrieval,
    "robustness": _robustness,
    "cross_corpus": _cross_corpus,
    "identity": _identity,
    "neighbours": _neighbours,
    "rollout": _rollout,
    "zero_shot": _zero_shot,
    "text_retrieval": _text_retrieval,
    "statements": _statements,
}


def _name(row: Row) -> str:
    return ", ".join(value for value in row["model"].values() if value)


def _cent(share: float | None) -> str:
    return _NONE if share is None or math.isnan(share) else f"{100 * share:.1f}"


def _shown(score: str, value: float | None) -> str:
    return _NONE if value is None or math.isnan(value) else shown(score, value)


def _low(value: float) -> float:
    """To sort by, what is no number first."""
    return -math.inf if math.isnan(value) else value


def _bounds(bounds: Sequence[float | None] | None, score: str = "") -> str:
    """In whole per cent; of a score in its own unit, as it is."""
    if bounds is None or any(bound is None or math.isnan(bound) for bound in bounds):
        return _NONE
    low, high = (
        f"{bound:.3f}" if score in (*IN_OWN_UNIT, "brier") else f"{100 * bound:.0f}"
        for bound in bounds
        if bound is not None
    )
    return f"[{low}, {high}]"
