"""What `avemo evaluate` and fine-tuning left in runs' folders → numbers of the page.

Rows of all runs stand in one table a suite, told apart by `series`: the run where there are several, the folder where
a run has several of the suite, and what tells its models apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from avemo_jax.evaluation import calibration
from avemo_jax.evaluation.outcomes import MAIN_SCORES
from avemo_jax.evaluation.report import summarise
from avemo_jax.evaluation.runs import Run
from avemo_jax.evaluation.suite_tables import fitted_on

Row = dict[str, Any]
Numbers = dict[str, Any]

MOST_SERIES = 6  # that a chart can tell apart; tables have all
TENTHS = ("video", "audio", "fused_video", "fused_audio")  # of which rollout says how even it is
WAYS = ("video_to_audio", "audio_to_video")
# Of suites of texts: score → its heading.
TEXT_SCORES = {
    "zero_shot": {"uar": "UAR", "war": "WAR", "average_precision": "mAP"},
    "text_retrieval": {"r1": "R@1", "r5": "R@5", "r10": "R@10"},
    "statements": {"accuracy": "accuracy", "auc": "AUC"},
}


class Found(NamedTuple):
    """Rows of one suite in one folder, what its series are called before their models, and the page that `avemo
    evaluate` made of it, if it did."""

    words: tuple[str, ...]
    rows: list[Row]
    page: Path


def assemble(runs: Sequence[Run]) -> tuple[Numbers, dict[str, list[Row]]]:
    """Suite → what the page says of it, `outcomes` among them; and tables for charts."""
    numbers: Numbers = {}
    tables: dict[str, list[Row]] = {}
    for suite, add in _SUITES.items():
        found = list(_found(runs, suite))
        if found:
            numbers[suite] = add(found, tables)
    outcomes = [(run, one) for run in runs for one in run.outcomes]
    numbers["outcomes"] = [
        _outcome(run, one.name, one.rows, n, tables) for n, (run, one) in enumerate(outcomes)
    ]
    return numbers, tables


def names_of(models: Sequence[dict[str, str]]) -> list[str]:
    """What tells each of these apart from the others; all that is known, where there is one alone."""
    keys = list(dict.fromkeys(key for model in models for key in model))
    told = [key for key in keys if len({model.get(key) for model in models}) > 1]
    told = told or [key for key in ("feature", "weights", "selection", "modalities") if key in keys]
    return [", ".join(model[key] for key in told if model.get(key)) for model in models]


def _found(runs: Sequence[Run], suite: str) -> Iterator[Found]:
    for run in runs:
        own = [one for one in run.suites if suite in one.results]
        for one in own:
            words = [run.name] * (len(runs) > 1) + [one.name] * (len(own) > 1)
            yield Found(tuple(words), one.results[suite], run.folder / one.name / f"{suite}.html")


def _series(words: Sequence[str], name: str, otherwise: str = "the run") -> str:
    return ", ".join(word for word in (*words, name) if word) or otherwise


def _of_models(found: Sequence[Found]) -> Iterator[tuple[str, Row]]:
    """(series, row) of suites whose rows say of which model they are."""
    for words, rows, _ in found:
        models = [row["model"] for row in rows]
        unique = [dict(pairs) for pairs in dict.fromkeys(tuple(model.items()) for model in models)]
        names = dict(zip((tuple(one.items()) for one in unique), names_of(unique), strict=True))
        for model, row in zip(models, rows, strict=True):
            yield _series(words, names[tuple(model.items())]), row


def _calibration(found: Sequence[Found], tables: dict[str, list[Row]]) -> Numbers:
    kept = (
        "n", "uar", "confidence", "ece", "ece_ci95", "ace", "brier", "cross_entropy", "temperature", "risk_at_80",
    )  # fmt: skip
    models: list[Row] = []
    tables |= {"reliability": [], "risk": []}
    for series, row in _of_models(found):
        tempered = (row.get("tempered") or {}).get("ece")
        models.append({"series": series, **{key: row.get(key) for key in kept}, "tempered_ece": tempered})
        if len(models) > MOST_SERIES:
            continue
        bins, risk = row["reliability"], row["risk_coverage"]
        for confidence, accuracy, clips in zip(
            bins["confidence"], bins["accuracy"], bins["clips"], strict=True
        ):
            tables["reliability"].append(
                {"series": series, "confidence": confidence, "accuracy": accuracy, "clips": clips}
            )
        tables["risk"] += [
            {"series": series, "coverage": coverage, "risk": wrong}
            for coverage, wrong in zip(risk["coverage"], risk["risk"], strict=True)
        ]
    return {"models": models, "fitted_on": calibration.fitted_on([row for _, row in _of_models(found)])}


def _fairness(found: Sequence[Found], tables: dict[str, list[Row]]) -> Numbers:
    traits: dict[tuple[str, str], list[tuple[str, Row]]] = {}
    for series, row in _of_models(found):
        traits.setdefault((row["trait"], row["gap"]["score"]), []).append((series, row))
    entries = []
    for number, ((trait, score), rows) in enumerate(traits.items()):
        table = f"groups-{number}"
        tables[table] = [
            {
                "series": series,
                "group": one["group"],
                "n": one["n"],
                "speakers": one["speakers"],
                "value": one[score],
                "bounds": one[f"{score}_ci95"],
            }
            for series, row in rows
            for one in row["groups"]
        ]
        gaps = [{"series": series, **row["gap"], "unknown": row.get("unknown", 0)} for series, row in rows]
        entries.append({"trait": trait, "score": score, "table": table, "gaps": gaps})
    return {"traits": entries, "series": list(dict.fromkeys(series for series, _ in _of_models(found)))}


def _conflict(found: Sequence[Found], tables: dict[str, list[Row]]) -> Numbers:
    """Models, and then who rated their clips: a line for each of what raters said."""
    models: list[Row] = []
    for series, row in _of_models(found):
        models.append(
            {"series": series, **{key: row[key] for key in (*_FOLLOWED, "n", "face_share", "ci95")}}
        )
    said: dict[tuple, tuple[str, ...]] = {}
    for words, rows, _ in found:
        for row in rows:
            said.setdefault((*(row["raters"][key] for key in (*_FOLLOWED, "face_share")), row["n"]), words)
    for values, words in said.items():
        name = _series(words if len(said) > 1 else (), "raters who had both")
        if any(one["series"] == name for one in models):
            name += f" of {values[-1]:,} clips"
        facts = dict(zip((*_FOLLOWED, "face_share", "n"), values, strict=True))
        models.append({"series": name, **facts, "ci95": None})
    tables["conflict"] = [
        {
            "series": one["series"],
            "followed": name,
            "place": place,
            "clips": one[name],
            "share": one[name] / max(1, sum(one[key] for key in _FOLLOWED)),
        }
        for one in models
        for place, name in enumerate(_FOLLOWED)
    ]
    return {"models": models}


def _paired(found: Sequence[Found], tables: dict[str, list[Row]]) -> Numbers:
    """A line a pair and score; of the permutation test in the first one's."""
    tables["paired"] = [
        {
            "series": series,
            "n": row["n"],
            "score": score,
            "here": row[score],
            "there": row[f"{score}_against"],
            "difference": row[f"{score}_difference"],
            "bounds": row[f"{score}_difference_ci95"],
            "p": row["p_permutation"] if score == row["score"] else None,
        }
        for series, row in _of_models(found)
        for score in (key.removesuffix("_against") for key in row if key.endswith("_against"))
    ]
    return {"n": len(tables["paired"])}


def _retrieval(found: Sequence[Found], tables: dict[str, list[Row]]) -> Numbers:
    rows, lacking = [], {}
    for words, own, _ in found:
        for row in own:
            lacking[_series(words, "")] = row.get("lacking", 0)
            weights = row["weights"] if row["weights"] == "checkpoint" else f"random {row['seed']}"
            for way in WAYS:
                named = {"series": _series(words, weights), "layer": row["layer"], "way": way, "n": row["n"]}
                rows.append({**named, **row[way], "chance": row["chance"]})
    tables["retrieval"] = rows
    return {"lacking": {series: count for series, count in lacking.items() if count}}


def _robustness(found: Sequence[Found], tables: dict[str, list[Row]]) -> Numbers:
    """A table a score: changes of different ones have no common scale."""
    scores: dict[str, list[Row]] = {}
    for words, own, _ in found:
        features = [row.get("feature", "") for row in own]
        several = len(set(features)) > 1
        for feature, row in zip(features, own, strict=True):
            condition = row["corruption"].replace("_", " ")
            condition += f", {row['level']:g} {row['unit']}" if row["unit"] else ""
            scores.setdefault(row["score"], []).append(
                {
                    "series": _series(words, feature if several else ""),
                    "condition": "as they are" if row["corruption"] == "none" else condition,
                    "corruption": row["corruption"],
                    "value": row[row["score"]],
                    "change": row["change"],
                    "change_bounds": row["change_ci95"],
                    "kept": row.get("kept"),
                    **{key: row.get(key) for key in _SWAPPED},
                }
            )
    entries = []
    for number, (score, rows) in enumerate(scores.items()):
        table = f"robustness-{number}" if number else "robustness"
        tables[table] = rows
        series = list(dict.fromkeys(row["series"] for row in rows))
        entries.append({"score": score, "table": table, "series": series})
    return {"scores": entries}


def _identity(found: Sequence[Found], tables: dict[str, list[Row]]) -> Numbers:
    entries = []
    for number, (words, rows, _) in enumerate(found):
        table = f"identity-{number}"
        tables[table] = summarise(rows)
        first = rows[0]
        entries.append(
            {
                "series": _series(words, "", ""),
                "table": table,
                **{key: first[key] for key in ("chance", "n", "speakers")},
            }
        )
    return {"runs": entries}


def _of_texts(suite: str) -> Callable[[Sequence[Found], dict[str, list[Row]]], Numbers]:
    """For a suite of texts: a line a space and, of retrieval, a way; what there is of `TEXT_SCORES` in each."""
    ways = ("text_to_clip", "clip_to_text") if suite == "text_retrieval" else ("",)

    def add(found: Sequence[Found], tables: dict[str, list[Row]]) -> Numbers:
        lines = []
        for words, own, _ in found:
            for row in own:
                weights = f"random {row['seed']}" if row["weights"] == "random" else row["weights"]
                facts = {"series": _series(words, weights), **{key: row[key] for key in ("map", "by", "n")}}
                for way in ways:
                    prefix = f"{way}_" if way else ""
                    scores = {
                        name: {"value": row.get(prefix + name), "bounds": row.get(f"{prefix}{name}_ci95")}
                        for name in TEXT_SCORES[suite]  # rows of earlier versions may lack one
                    }
                    lines.append({**facts, "way": way, "scores": scores})
        tables[suite] = lines
        every = [row for one in found for row in one.rows]
        return {"chance": found[0].rows[0].get("chance"), "fitted_on": fitted_on(every)}

    return add


def _neighbours(found: Sequence[Found], tables: dict[str, list[Row]]) -> Numbers:
    kept = ("feature", "label", "k", "n", "precision", "precision_ci95", "chance")
    tables["neighbours"] = [
        {"series": _series(words, _weights(row)), **{key: row[key] for key in kept}}
        for words, own, _ in found
        for row in own
    ]
    first = next((one.rows[0] for one in found if one.rows), {})
    return {"k": first.get("k"), "pages": _pages(found)}


def _rollout(found: Sequence[Found], tables: dict[str, list[Row]]) -> Numbers:
    """The mean over clips of how much comes from the most relevant tenth of patches."""
    tables["rollout"] = [
        {
            "series": _series(words, ""),
            "clips": len(own),
            **{name: sum(row[name] for row in own) / len(own) for name in TENTHS if name in own[0]},
        }
        for words, own, _ in found
    ]
    return {"pages": _pages(found)}


def _pages(found: Sequence[Found]) -> list[Row]:
    """Pages of clips that `avemo evaluate` made, to link to."""
    return [{"series": _series(one.words, ""), "path": str(one.page)} for one in found if one.page.is_file()]


def _weights(row: Row) -> str:
    return {"checkpoint": "checkpoint", "random": f"random {row['seed']}", "none": "no network"}[
        row["weights"]
    ]


def _outcome(run: Run, place: str, rows: Sequence[Row], number: int, tables: dict[str, list[Row]]) -> Row:
    """A fine-tuning run's scores: lines of a table, and confusions where classes are predicted."""
    first = rows[0]
    scores = (*MAIN_SCORES[first["target"]], *first.get("further", ()))
    lines = []
    for row in rows:
        cells = {
            name: {
                "value": row[name],
                "bounds": row["ci95" if at == 0 else f"{name}_ci95"],
                "folds": [row.get(f"fold_{name}_mean"), row.get(f"fold_{name}_std")],
            }
            for at, name in enumerate(scores)
        }
        who = {key: row.get(key) for key in ("selection", "modalities", "step", "n")}
        lines.append({**who, "scores": cells})
    confusions = []
    if "confusion" in first:
        table = f"confusion-{number}"
        tables[table] = confusion_cells(first["classes"], first["confusion"])
        recalls = [row[k] / sum(row) if sum(row) else None for k, row in enumerate(first["confusion"])]
        shown = {key: first[key] for key in ("selection", "modalities", "classes", "confusion")}
        confusions = [{**shown, "recalls": recalls, "table": table}]
    kept = ("label", "target", "split", "fold", "n", "speakers", "outputs", "chance", "ci_unit", "ci_groups")
    return {
        "run": run.name,
        "place": place,
        **{key: first.get(key) for key in kept},
        "scores": list(scores),
        "lines": lines,
        "confusions": confusions,
    }


def confusion_cells(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[Row]:
    """Of a confusion matrix, counts [true][predicted], row by row."""
    return [
        {"truth": truth, "predicted": guess, "clips": clips, "share": clips / max(1, sum(counts))}
        for truth, counts in zip(classes, matrix, strict=True)
        for guess, clips in zip(classes, counts, strict=True)
    ]


_FOLLOWED = ("face", "voice", "other")
_SWAPPED = (  # of clips with another one's sound or picture
    "reliance", "reliance_ci95", "follows_donor", "follows_donor_ci95", "follows_donor_clean", "donors",
)  # fmt: skip
_SUITES = {
    "calibration": _calibration,
    "fairness": _fairness,
    "conflict": _conflict,
    "paired": _paired,
    "retrieval": _retrieval,
    "robustness": _robustness,
    "identity": _identity,
    **{suite: _of_texts(suite) for suite in TEXT_SCORES},
    "neighbours": _neighbours,
    "rollout": _rollout,
}
