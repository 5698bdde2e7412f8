"""The part of a card that is about a fine-tuned model alone: what its outputs mean, and how it did in its test."""

from __future__ import annotations

from ml_collections import ConfigDict

from avemo_jax.convert.huggingface.facts import Facts, Row
from avemo_jax.convert.huggingface.folder import kind_of, output_names, rule_of
from avemo_jax.evaluation.outcome_files import shown, speakers_in_words, tested_in_words
from avemo_jax.evaluation.outcomes import MAIN_SCORES

_RULES = {  # title, what a clip becomes, what the linear layer gives
    "class": ("classifier of {label}", "one of {count} classes ({names})"),
    "plurality": ("classifier of {label}", "which of {count} classes most raters would name ({names})"),
    "majority": (
        "classifier of {label}",
        "which of {count} classes more than half of all raters would name ({names})",
    ),
    "distribution": (
        "predictor of raters' votes in {label}",
        "how raters' votes would spread over {count} classes ({names})",
    ),
    "multi_label": (
        "multi-label classifier of {label}",
        "which of {count} classes it shows, none to all ({names})",
    ),
    "values": ("regressor of {label}", "{count} number{s} ({names})"),
    "raters": (
        "predictor of raters' votes in {label}",
        "the mean of what its raters would say, shares of {count} classes ({names})",
    ),
    "affect": ("classifier by {label}", "how likely each of {count} classes is by {label} ({names})"),
}
_SCORES = {
    "uar": "UAR (mean recall of classes)",
    "war": "WAR (accuracy)",
    "wf1": "weighted F1",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "map": "mean average precision",
    "auc": "area under the ROC curve",
    "js": "Jensen–Shannon divergence, nats, lower is better",
    "kl": "Kullback–Leibler divergence, nats, lower is better",
    "ccc": "CCC (concordance)",
    "pcc": "PCC (Pearson)",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "ece": "expected calibration error",
    "brier": "Brier score",
    "cross_entropy": "cross-entropy, nats",
    "exact": "clips of which all classes are right",
}
_SHOWN_RAW = ("brier", "cross_entropy")


def outputs_in_words(config: ConfigDict) -> tuple[str, str]:
    """(what the model is, what a clip becomes)."""
    names = output_names(config)
    words = {
        "label": ", ".join(f"`{name}`" for name in str(config.data.label).split(",")),
        "count": len(names),
        "names": ", ".join(f"`{name}`" for name in names),
        "s": "" if len(names) == 1 else "s",
    }
    kind, meaning = _RULES[rule_of(config)]
    return kind.format(**words), meaning.format(**words)


def raw_outputs(config: ConfigDict) -> str:
    """What the linear layer's numbers are."""
    if config.model.head_activation:
        return f"after a {config.model.head_activation}"
    return "the values" if kind_of(config) == "values" else "before any softmax or sigmoid"


def told_in_words(config: ConfigDict) -> str:
    """What the pipeline returns."""
    views = config.views.segments
    seen = (
        f"Each clip is seen in {views} views, evenly spread over its time, as in the test"
        if views > 1
        else "It"
    )
    merged = "" if views == 1 else "; they are merged. The pipeline"
    return f"{seen}{merged} " + {
        "values": "returns {name: value}, and `decide` the same.",
        "multi_label": "returns {label: probability}, each by itself, and `decide` the list of labels that reach "
        "their thresholds (`config.head`).",
        "distribution": "returns {label: share}, and `decide` the label with the largest one.",
    }.get(kind_of(config), "returns {label: probability}, and `decide` the most likely label.")


def test_of(config: ConfigDict, facts: Facts) -> str:
    """The test of these weights: split, scores with intervals, calibration, and what to be careful about."""
    first = facts.outcomes[0]
    disjoint = (
        "None of their speakers was trained on."
        if first["speaker_disjoint"]
        else "Their speakers may have been trained on: nothing is said about new ones."
    )
    tested = f"{tested_in_words(first)} of {speakers_in_words(first['speakers'])}"
    parts = [
        f"## Test\n\n{tested} that it was not trained on: protocol {first['split']}, fold "
        f"{first['fold']}, split hash `{first['split_hash']}`. {disjoint} Weights: {_chosen(first)}. Brackets hold "
        f"95 % intervals from resampling {first['ci_groups']} {first['ci_unit']}s.",
        _scores(config, facts),
        _calibration(config, facts.decision),
    ]
    notes = []
    if str(first["selection"]).startswith("legacy"):
        notes.append(
            "These weights were chosen by the very clips of this table, which therefore says too much."
        )
    if config.views.audio_gain:
        notes.append(
            "In the test, sound was played at random volumes, as the reference does; here it is as recorded."
        )
    if first.get("unreadable"):
        notes.append(f"{first['unreadable']} further test clips could not be read.")
    return "\n\n".join(filter(None, [*parts, *notes]))


def _chosen(row: Row) -> str:
    return "the last ones of the run" if row["selection"] == "last" else str(row["selection"])


def _scores(config: ConfigDict, facts: Facts) -> str:
    rows, main = facts.outcomes, MAIN_SCORES[kind_of(config)]
    columns = [(row["modalities"].replace("_", " + "), row) for row in rows]
    if facts.folds:
        columns.append((f"all {len(facts.folds['folds'])} folds, each with a model of its own", facts.folds))
    names = [name for name, _ in columns] if len(columns) > 1 else [""]
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(columns)]
    for place, name in enumerate(main):
        cells = [_cell(row, name, "ci95" if place == 0 else f"{name}_ci95") for _, row in columns]
        lines.append(f"| {_SCORES[name]} | {' | '.join(cells)} |")
    if rows[0].get("chance"):
        chances = [f"{100 * row['chance']:.1f} %" for _, row in columns]
        lines.append(f"| chance | {' | '.join(chances)} |")
    for value in rows[0]["outputs"] if rows[0]["target"] == "values" and len(rows[0]["outputs"]) > 1 else ():
        known = [row[f"ccc_{value}"] for _, row in columns]
        cells = ["–" if one is None else f"{_shown('ccc', one)}{_unit('ccc')}" for one in known]
        lines.append(f"| CCC of `{value}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Row, name: str, interval: str) -> str:
    if row.get(name) is None:
        return "–"
    low, high = (_shown(name, bound) for bound in row[interval])
    return f"{_shown(name, row[name])} [{low}, {high}]{_unit(name)}"


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if name in _SHOWN_RAW else shown(name, value)


def _unit(name: str) -> str:
    return "" if _shown(name, 0.5) == "0.500" else " %"


def _calibration(config: ConfigDict, decision: Row | None) -> str:
    if kind_of(config) == "values":
        return ""
    if not decision:
        return (
            "No development clips were held out: probabilities are as the model says them, not calibrated"
            f"{', and thresholds are one half' if kind_of(config) == 'multi_label' else ''}."
        )
    what = f"A temperature of {decision['temperature']:.2f}"
    if decision["thresholds"]:
        listed = zip(output_names(config), decision["thresholds"], strict=True)
        what += f" and the thresholds {', '.join(f'`{name}` {value:.2f}' for name, value in listed)}"
    text = (
        f"{what} {'were' if decision['thresholds'] else 'was'} fitted on {decision['clips']:,} development clips of "
        f"{speakers_in_words(decision['speakers'])}, neither trained on nor tested on."
    )
    if decision["unseen"]:
        text += f" No development clip has {', '.join(f'`{name}`' for name in decision['unseen'])}: one half is taken."
    test = decision["test"]
    lines = ["| on the test clips | as the model says | as the pipeline says |", "|---|---|---|"]
    for place, name in enumerate(test["before"]):
        after = _shown(name, test["after"][name])
        if place == 0:
            low, high = (_shown(name, bound) for bound in test["after"][f"{name}_ci95"])
            after += f" [{low}, {high}]"
        before = _shown(name, test["before"][name])
        lines.append(f"| {_SCORES[name]} | {before}{_unit(name)} | {after}{_unit(name)} |")
    return text + "\n\n" + "\n".join(lines)
