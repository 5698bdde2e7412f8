"""The part of a card that is about suites of `avemo evaluate`: their main figures with intervals, a line each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from avemo_jax.evaluation import calibration
from avemo_jax.evaluation.outcome_files import IN_OWN_UNIT, SPLIT_SEED, shown, speakers_in_words
from avemo_jax.evaluation.questions import manner

Row = dict[str, Any]
Suite = tuple[str, list[Row]]  # its name, and its rows of one folder
_FEW_GROUPS = 6  # of which each is named, not only the best and the worst


def suites_of(suites: Sequence[Suite]) -> str:
    """A section with what the suites found of these weights; empty where none was asked."""
    lines = [line for name, rows in suites if name in _LINES for line in _LINES[name](rows)]
    if not lines:
        return ""
    listed = "\n".join(f"- {line}" for line in dict.fromkeys(lines))
    return (
        "## Beyond one number\n\nFurther questions that `avemo evaluate` asked of these weights; brackets hold 95 % "
        f"intervals from resampling speakers, or clips where there is one speaker.\n\n{listed}"
    )


def traits_of(suites: Sequence[Suite]) -> list[str]:
    """What people were grouped by in suites of fairness; a speaker alone is no group."""
    traits = [row["trait"] for name, rows in suites if name == "fairness" for row in rows]
    return [trait for trait in dict.fromkeys(traits) if trait != "speaker"]


def _calibration(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        told = f"expected calibration error {_score('ece', row['ece'], row['ece_ci95'])}"
        tempered = (row.get("tempered") or {}).get("ece")
        if tempered is not None:
            told += f", {_score('ece', tempered)} with temperatures fitted on {calibration.fitted_on([row])}"
        yield f"Calibration{_model(row)}, {row['n']:,} clips: {told}."


def _fairness(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        gap, groups = row["gap"], row["groups"]
        score = gap["score"]
        apart = ""
        if gap["gap"] is not None:
            unit = "" if score in IN_OWN_UNIT else "points"
            apart = (
                f"; gap {_score(score, gap['gap'], gap['gap_ci95'], unit)}, {gap['best']} over {gap['worst']} "
                f"({_score(score, gap['expected'], unit='')} by chance, p = {gap['p']:.3f})"
            )
            if len(groups) > _FEW_GROUPS:
                groups = [one for one in groups if one["group"] in (gap["best"], gap["worst"])]
        each = [
            f"{one['group']} {_score(score, one[score], one[f'{score}_ci95'])} ({one['n']:,} clips of "
            f"{speakers_in_words(one['speakers'])})"
            for one in groups
        ]
        yield f"Fairness by {row['trait']}{_model(row)}, {score.upper()}: {', '.join(each)}{apart}."


def _conflict(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        yield (
            f"Where voice and face say different things{_model(row)}, {row['n']:,} clips: it follows the face in "
            f"{row['face']:,} and the voice in {row['voice']:,}, so the face in "
            f"{_score('share', row['face_share'], row['ci95'])} of both."
        )


def _retrieval(rows: Sequence[Row]) -> Iterator[str]:
    for row in [row for row in rows if row["layer"] == "all"] or rows[-1:]:
        found = [
            f"{words} {_score('r1', row[way]['r1'], row[way].get('r1_ci95'))}"
            for way, words in (
                ("video_to_audio", "sound found by its picture"),
                ("audio_to_video", "picture by its sound"),
            )
        ]
        chance = _score("r1", row["chance"]["r1"])
        yield f"Retrieval, R@1 of {row['n']:,} clips: {', '.join(found)}; {chance} by chance."


def _robustness(rows: Sequence[Row]) -> Iterator[str]:
    """By model the score as it is, and what the severest level of each corruption changes."""
    models: dict[str, list[Row]] = {}
    for row in rows:
        models.setdefault(row.get("feature", ""), []).append(row)
    for feature, own in models.items():
        severest = {row["corruption"]: row for row in own if row["corruption"] != "none"}
        clean = next((row for row in own if row["corruption"] == "none"), None)
        if clean is None or not severest:
            continue
        score = clean["score"]
        unit = "" if score in IN_OWN_UNIT else "points"
        changes = [
            f"{name.replace('_', ' ')}{_level(row)} {_score(score, row['change'], row['change_ci95'], unit)}"
            for name, row in severest.items()
        ]
        followed = [
            f"; with another clip's {row['stream']} it says that clip's class in "
            f"{_score('follows_donor', row['follows_donor'], row['follows_donor_ci95'])} of clips"
            for row in own
            if row.get("follows_donor") is not None
        ]
        of = f" of a probe of `{feature}`" if feature else ""
        known = f", {clean['n']:,} clips" if clean.get("n") else ""
        yield (
            f"Robustness{of}{known}: {score.upper()} {_score(score, clean[score], clean.get('ci95'))} of clips as they "
            f"are; it changes, at the severest level of each, by {', '.join(changes)}{''.join(followed)}."
        )


def _cross_corpus(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        yield (
            f"On another corpus, `{row['fold']}`{_model({'model': row})}, {row['n']:,} clips of "
            f"{speakers_in_words(row['speakers'])}, {len(row['outputs'])} classes: UAR "
            f"{_score('uar', row['uar'], row['ci95'])}; {_score('uar', row['chance'])} by chance."
        )


def _identity(rows: Sequence[Row]) -> Iterator[str]:
    best = max(rows, key=lambda row: row["uar"])
    yield (
        f"Identity: a probe of `{best['feature']}` tells {best['speakers']} speakers apart with UAR "
        f"{_score('uar', best['uar'], best['ci95'])}; {_score('uar', best['chance'])} by chance."
    )


def _neighbours(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["precision"] is not None:
            yield (
                f"Neighbours by `{row['feature']}`: the {row['k']} nearest clips of other speakers have a clip's "
                f"`{row['label']}` in {_score('precision', row['precision'], row['precision_ci95'])} of cases; "
                f"{_score('precision', row['chance'])} by chance."
            )


def _of_texts(title: str, scores: dict[str, str]) -> Callable[[Sequence[Row]], Iterator[str]]:
    def lines(rows: Sequence[Row]) -> Iterator[str]:
        for row in rows:
            found = [
                f"{words} {_score(name, row[name], row[f'{name}_ci95'])}" for name, words in scores.items()
            ]
            yield f"{title} by {row['by']} ({row['map']}), {row['n']:,}: {', '.join(found)}."

    return lines


_LINES: dict[str, Callable[[Sequence[Row]], Iterator[str]]] = {
    "calibration": _calibration,
    "fairness": _fairness,
    "conflict": _conflict,
    "retrieval": _retrieval,
    "robustness": _robustness,
    "cross_corpus": _cross_corpus,
    "identity": _identity,
    "neighbours": _neighbours,
    "zero_shot": _of_texts("Zero-shot classes", {"uar": "UAR", "war": "WAR"}),
    "text_retrieval": _of_texts(
        "Retrieval by texts", {"text_to_clip_r1": "R@1 of clips", "clip_to_text_r1": "R@1 of texts"}
    ),
    "statements": _of_texts("Statements", {"accuracy": "accuracy", "auc": "AUC"}),
}


def _model(row: Row) -> str:
    """What the predictions say of the model, where that tells more than that it is this one."""
    told = row["model"]
    asked = manner(told) if "feature" in told else [told.get("selection", "")]
    words = [told.get("class", ""), told.get("feature", ""), *asked]
    words.append(told.get("modalities", "").replace("_", " + "))
    words.append(f"folds dealt by seed {told[SPLIT_SEED]}" if told.get(SPLIT_SEED) else "")
    return f" ({', '.join(word for word in words if word)})" if any(words) else ""


def _level(row: Row) -> str:
    return f" ({row['level']:g} {row['unit']})" if row["unit"] else ""


def _score(
    name: str, value: float | None, bounds: Sequence[float | None] | None = None, unit: str = "%"
) -> str:
    """A score with its interval, in per cent or its own unit; a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    low, high = bounds or (None, None)
    text = shown(name, value)
    if low is not None and high is not None:
        text += f" [{shown(name, low)}, {shown(name, high)}]"
    return text if name in IN_OWN_UNIT or not unit else f"{text} {unit}"
