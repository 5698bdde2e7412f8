"""The model card: what a folder holds, how it is used, where it came from and what it is not for.

A template filled with what is known of the run; a part of which nothing is known is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from ml_collections import ConfigDict

from avemo_jax import __version__
from avemo_jax.convert.huggingface.facts import BeganFrom, Facts, ProbeRows
from avemo_jax.convert.huggingface.folder import kind_of, may_lack
from avemo_jax.convert.huggingface.judged import suites_of, traits_of
from avemo_jax.convert.huggingface.tested import outputs_in_words, raw_outputs, test_of, told_in_words
from avemo_jax.convert.huggingface.verify import SAME_FILE, SAME_TENSORS, Verified
from avemo_jax.convert.verify import Difference
from avemo_jax.errors import UserError
from avemo_jax.evaluation import report
from avemo_jax.evaluation.outcome_files import speakers_in_words
from avemo_jax.evaluation.questions import question
from avemo_jax.paths import absolute
from input_pipeline.audio import SAMPLE_RATE, samples_for
from input_pipeline.blazeface import INSTALL
from input_pipeline.storing import ClipOptions

_PAPER = (
    "HiCMAE (Licai Sun, Zheng Lian, Bin Liu, Jianhua Tao: Hierarchical Contrastive Masked Autoencoder for "
    "Self-Supervised Audio-Visual Emotion Recognition, Information Fusion 108, 2024, "
    "[arXiv:2401.05698](https://arxiv.org/abs/2401.05698))"
)
_SPLIT_OF_NO_SPLITS = "clips"


@dataclass(frozen=True)
class Stored:
    """How the folder prepares clips; known: that the training data was made so."""

    options: ClipOptions
    known: bool


def check_license(name: str) -> None:
    """Raises a UserError for what the Hub would not take as a licence's short name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name):
        raise UserError(f"--license '{name}': the Hub takes short names like apache-2.0, cc-by-nc-4.0, other")


def write_card(
    config: ConfigDict,
    facts: Facts,
    stored: Stored,
    parameters: int,
    license_name: str,
    verified: Verified | None,
) -> str:
    """Markdown with the Hub's metadata before it.

    Args:
      config: the run's.
      facts: what is known of it.
      stored: how clips are prepared in the folder.
      parameters: numbers in the weight file.
      license_name: of the weights.
      verified: the comparison with the JAX model, where one was made.
    """
    parts = [
        _metadata(config, license_name),
        _what(config, facts, parameters),
        _use(config, stored),
        _outputs(config),
        _input(config, stored),
        _training(config, facts),
        test_of(config, facts) if facts.outcomes else "",
        *(_probe(rows) for rows in facts.probes),
        suites_of(facts.suites),
        _limits(config, facts, stored),
        _files(license_name, verified),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _metadata(config: ConfigDict, license_name: str) -> str:
    pipeline = "feature-extraction" if config.task == "pretrain" else "video-classification"
    if config.task == "finetune" and kind_of(config) == "values":
        pipeline = "other"  # the Hub has no name for numbers from videos
    tags = ["audio-visual", "emotion-recognition", "hicmae", "avemo_jax"]
    names = {"license": license_name, "library_name": "transformers", "pipeline_tag": pipeline}
    lines = ["---", *(f"{name}: {value}" for name, value in names.items()), "tags:"]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---"])


def _what(config: ConfigDict, facts: Facts, parameters: int) -> str:
    model = config.model
    size = (
        f"{parameters / 1e6:.1f} M parameters (width {model.dim}, {model.heads} heads, {model.depth} layers in each "
        f"encoder, {model.fusion_depth} in the fusion)"
    )
    if config.task == "pretrain":
        title = f"HiCMAE {config.size}, audio-visual encoder"
        text = (
            f"Clips of a speaking face → vectors. A video encoder, an audio encoder and their fusion, {size}; the "
            f"method is {_PAPER}: masked autoencoding of both, with contrast between their layers. The decoders of "
            "pretraining are not in this folder."
        )
    else:
        kind, meaning = outputs_in_words(config)
        title = f"HiCMAE {config.size}, audio-visual {kind}"
        text = (
            f"Clips of a speaking face → {meaning}. HiCMAE's encoders, their fusion and a linear head, {size}; the "
            f"method is {_PAPER}."
        )
    return f"# {title}\n\n{text}\n\n{_origin(config, facts)}"


def _origin(config: ConfigDict, facts: Facts) -> str:
    if not facts.step:
        return "The weights were not trained in this run (step 0): how they came about is not recorded."
    text = f"Trained with avemo_jax for {facts.step:,} steps, see below. "
    if facts.began_from:
        text += f"The encoders and their fusion began with those of {_begun(facts.began_from)}"
    elif config.get("init", {}).get("checkpoint"):
        text += f"It began with the weights of {_LOST}"
    else:
        text += "If training began from other weights, that is not recorded."
    if facts.made_by:
        text += f"\n\n{_drawn(facts)}"
    return text


_LOST = "another run, which cannot be found at the place noted."
_RUNS = {
    "pretrain": "a pretraining run",
    "finetune": "a run that was fine-tuned",
    "several": "a run that was fine-tuned",
    "align_text": "a run that was aligned with texts",
}


def _begun(began: BeganFrom) -> str:
    """A run and, in sentences of their own, those before it."""
    clips = f" of {began.batch_size} clips" if began.batch_size else ""
    text = f"{_run(began)}, whose newest checkpoint is now of {began.step:,} steps{clips}."
    if began.before or began.lost:
        text += f" That run began with {_begun(began.before) if began.before else _LOST}"
    return text


def _run(began: BeganFrom) -> str:
    return _RUNS.get(began.task, "another run")


def _drawn(facts: Facts) -> str:
    before, began = "", facts.began_from
    while began:
        if began.made_by:
            before += f" So were those of {_run(began)} before it."
        began = began.before
    return (
        f"**Its clips were drawn and spoken by a program** (`{', '.join(facts.made_by)}`), no person was filmed: it "
        f"shows that the machinery works, and knows nothing of real faces and voices.{before}"
    )


def _use(config: ConfigDict, stored: Stored) -> str:
    finder = ""
    if stored.options.crop == "face":
        finder = f"`{INSTALL}` for finding faces, "
    return f"""## Use

`pip install torch transformers av pillow`, {finder}then, with FOLDER this folder or its name on the Hub:

{_USE[config.task]}"""


_USE = {
    "pretrain": """```python
from transformers import AutoFeatureExtractor, AutoModel
extractor = AutoFeatureExtractor.from_pretrained("FOLDER", trust_remote_code=True)
model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True).eval()
inputs = extractor(["clip.mp4"])
embedding = model(**inputs).cat4
```""",
    "finetune": """```python
from transformers import pipeline
recognise = pipeline(model="FOLDER", trust_remote_code=True)
told = recognise("clip.mp4")
print(told)
print(recognise.decide(told))
```

`AutoFeatureExtractor` and `AutoModelForVideoClassification` are there for the two halves of it.""",
}


def _outputs(config: ConfigDict) -> str:
    model = config.model
    width, bands, cells = model.dim, model.mel_bins // 16, min(4, model.image_size // 16) ** 2
    tokens = f"N, {width}"
    layers = f"all tokens, {model.depth} layers, with `output_hidden_states=True`"
    rows = [
        ("cat4", 4 * width, "the next four, one behind the other"),
        ("video, audio", width, "mean token of each encoder, averaged over its layers"),
        ("fused_video, fused_audio", width, "mean token after the fusion"),
        ("audio_rows", bands * width, f"last audio layer, a vector for each of {bands} frequency rows"),
        ("video_cells", cells * width, f"last video layer, a vector for each of {cells} parts of a frame"),
        ("fused_video_tokens, fused_audio_tokens", tokens, "all tokens after the fusion"),
        ("video_hidden_states, audio_hidden_states", tokens, layers),
    ]
    if config.task == "finetune":
        rows = [
            ("logits", model.classes, f"{raw_outputs(config)}, in the order of `config.id2label`"),
            ("feature", 4 * width, "the normed vector that the head reads"),
        ]
    lines = ["| output of the model | shape | |", "|---|---|---|"]
    for names, shape, text in rows:
        lines.append(f"| {', '.join(f'`{name}`' for name in names.split(', '))} | [B, {shape}] | {text} |")
    told = f"{told_in_words(config)}\n\n" if config.task == "finetune" else ""
    return f"## Output\n\n{told}" + "\n".join(lines)


def _input(config: ConfigDict, stored: Stored) -> str:
    options = stored.options
    model, data = config.model, config.data
    seconds = samples_for(model.audio_frames) / SAMPLE_RATE
    which = f"{model.frames} frames"
    if data.frame_stride > 1:
        which += f", every {_ordinal(data.frame_stride)}"
    part = "the largest square in the middle of each" if data.crop == "multi_scale" else "each as a whole"
    before = {
        "none": "",
        "fixed": "cut by the fixed box for VoxCeleb2, ",
        "face": "turned upright and cut to the face, which is found and followed through the whole clip, and ",
    }[options.crop]
    origin = "as the training data was"
    if not stored.known:
        origin = "which are default values: how the training data was prepared is not recorded"
        if options.crop != "none":
            origin = "the cut as in the training data, whose folders differ: all else are default values"
    return f"""## Input

One clip is {which} from the middle of a file, {part}, at {model.image_size} × {model.image_size} pixels, and the \
sound of that time, at most {seconds:.1f} s, as a log-mel of {model.audio_frames} × {model.mel_bins}. Before that, \
frames are {before}scaled down to a short side of {options.short_side} pixels and JPEG-compressed (quality \
{options.jpeg_quality}), {origin}.

The extractor does all of it. `extractor(files, start_s=…, end_s=…)` takes another part of the files, \
`extractor(frames=…, fps=…, waveform=…)` what was decoded elsewhere (uint8 RGB, 16 kHz mono)."""


def _training(config: ConfigDict, facts: Facts) -> str:
    if not facts.step:
        return ""
    rows = {
        "data": _folders(facts),
        "clips": _clips(facts),
        "drawn and spoken by": ", ".join(facts.made_by),
        "trained with": _others(facts),
        "steps": f"{facts.step:,} of {config.batch_size} clips, {facts.step * config.batch_size:,} clips seen",
        "compute": _compute(facts),
        "time in steps": _clock(facts.stepping_s),
        "devices": facts.devices,
        f"losses at step {facts.losses_step:,}": ", ".join(
            f"{name} {value:.4g}" for name, value in facts.losses.items()
        ),
        "seed": str(config.seed),
        "software": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    }
    return "## Training\n\n" + _table(rows)


def _folders(facts: Facts) -> str:
    """Folders by their names alone: where they lie is nobody's business."""
    each = [f"`{name}`{f' (corpus {corpus})' if corpus else ''}" for name, corpus in facts.folders]
    return f"prepared folder{'s' * (len(each) > 1)} {', '.join(each)}" if each else ""


def _folder(path: str) -> str:
    """Likewise; empty where it is not recorded."""
    return f"prepared folder `{absolute(path).name}`" if path else ""


def _others(facts: Facts) -> str:
    if not facts.others:
        return ""
    names = ", ".join(f"`{name}`" for name in facts.others)
    return (
        f"the head{'s' * (len(facts.others) > 1)} {names}: data, steps, compute and losses are of all heads"
    )


def _compute(facts: Facts) -> str:
    if facts.flops is None:
        return ""
    return f"{facts.flops:.2e} FLOPs in this run, matrix products of its steps forward and backward"


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else str(timedelta(seconds=round(seconds)))


def _clips(facts: Facts) -> str:
    if facts.outcomes:
        row = facts.outcomes[0]
        tested = row.get("clips", row["n"])
        return f"{row['n_train']:,} to train, {row['n_development']:,} to choose by, {tested:,} to test"
    if facts.data is None:
        return ""
    hours = facts.data.sound_s and facts.data.sound_s / 3600
    length = f", {hours:.1f} h" if hours and hours >= 1 else f", {60 * hours:.0f} min" if hours else ""
    named = {name: count for name, count in facts.data.splits.items() if name != _SPLIT_OF_NO_SPLITS}
    splits = f" ({', '.join(f'{name} {count:,}' for name, count in named.items())})" if named else ""
    return f"{facts.data.clips:,}{length}{splits}"


def _probe(rows: ProbeRows) -> str:
    first = rows[0]
    speakers = speakers_in_words(first["speakers"])
    others = "speakers that" if first["speaker_disjoint"] else "clips, though not speakers, that"
    baselines = {
        "random": "`random` is the same network with random weights, of several seeds the mean and the range",
        "none": "`-` are plain statistics of pixels and log-mel",
    }
    beside = [text for weights, text in baselines.items() if any(row["weights"] == weights for row in rows)]
    repeats = len(first.get("repeats", [1]))
    dealt = ""
    if repeats > 1:
        dealt = f" The folds were dealt {repeats} times: scores and intervals are means over them, `± repeats` is the "
        dealt += "deviation of the first score."
    kind, facts, which = "regression", "a number. CCC and PCC in per cent", ""
    if "classes" in first:
        facts = f"{len(first['classes'])} classes, chance {100 * first['chance']:.1f} %. Per cent"
        kind, which = "classifier", "of the UAR "
    heads = list(dict.fromkeys(question(row)["head"] for row in rows))
    title, fitted = ("Linear probe", f"A linear {kind}") if heads == ["linear"] else ("Probe", f"A {kind}")
    by = "" if heads == ["linear"] else f" (head{'s' * (len(heads) > 1)} {', '.join(heads)})"
    sizes = f" of clips of another size ({first['sizes']})" if first.get("sizes") else ""
    where, other = (_folder(first.get(name, "")) for name in ("trained_on", "tested_on"))
    elsewhere = f"{other}, on " if first.get("trained_on") != first.get("tested_on") else ""
    where = f", {where}" if where else ""
    return f"""## {title}: `{first["label"]}`

{fitted}{by} on frozen features{sizes}{where}, tested on {elsewhere}{others} it was not fitted on (protocol \
{first["split"]}, split hash `{first["split_hash"]}`): {first["n"]:,} clips, {speakers}, {facts}; \
brackets hold the 95 % interval {which}from \
resampling {first["ci_unit"]}s.{"".join(f" {text}." for text in beside)}{dealt}

```
{report.table(rows)}
```"""


def _limits(config: ConfigDict, facts: Facts, stored: Stored) -> str:
    seconds = samples_for(config.model.audio_frames) / SAMPLE_RATE
    framing = "No face is looked for: the face should fill the picture as it did in the training data."
    if stored.options.crop == "face":
        framing = (
            "Without the packages that find faces the extractor refuses every clip; so it does where the face is found "
            f"in fewer than {100 * stored.options.min_face_share:g} % of the frames. Of several people it takes the "
            "one whose face is the largest for the longest."
        )
    seen = "of a longer file the middle"
    if config.task == "finetune" and config.views.segments > 1:
        seen = f"of a longer file {config.views.segments} views, evenly spread"
    corpora = "" if facts.folders and all(corpus for _, corpus in facts.folders) else " and corpora"
    lines = [
        *(
            ["Trained on drawn faces and a synthetic voice: not for real people at all."]
            if facts.made_by
            else []
        ),
        framing,
        f"It sees {seconds:.1f} s at a time: {seen}, unless parts of it are given.",
        _LACKING[may_lack(config)],
        "What it learnt is bound to its training data. Other languages, speakers, cameras, or spontaneous instead "
        f"of acted emotion may give worse results. Which languages{corpora} those were is not recorded here.",
        *_not_evaluated(facts),
        "What a face and a voice express is not what a person feels or intends. Not for decisions about people.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


_LACKING = {
    "none": "Files need both picture and sound.",
    "picture": "Files need sound; one without a picture is taken as black frames, as in training.",
    "sound": "Files need a picture; one without sound is taken as silent, as in training.",
    "either": "Files need picture or sound; what one lacks is taken as black frames or silence, as in training.",
}


def _not_evaluated(facts: Facts) -> Iterator[str]:
    """What no suite in the run's folder asked of these weights."""
    traits = traits_of(facts.suites)
    robust = any(name == "robustness" for name, _ in facts.suites)
    if traits:
        yield f"Of groups of people only {', '.join(traits)} was looked at: of others nothing is known."
    if not traits or not robust:
        what = ["by group of people (age, gender, language), for fairness"] * (not traits)
        what += ["for robustness (noise, light, compression, a missing modality)"] * (not robust)
        yield f"Nothing here was evaluated {' or '.join(what)}."


def _files(license_name: str, verified: Verified | None) -> str:
    terms = f"The licence of the weights is {license_name}."
    if license_name == "unknown":
        terms = "No licence was stated for the weights."
    text = f"""## Files

`model.safetensors` has the parameter names of HiCMAE's own code; `torch_model.py` is the model in plain PyTorch and \
needs nothing else. `feature_extraction_avemo.py` and the files that it imports prepare clips. `manifest.json` has \
the checksum of every file. Written by avemo_jax {__version__}; the Python files are part of it (Apache-2.0). {terms}"""
    if verified:
        same = _largest(verified.same_tensors, SAME_TENSORS)
        file = _largest(verified.same_file, SAME_FILE)
        versions = ", ".join(f"{name} {version}" for name, version in verified.versions.items())
        text += f"""

When it was written, this folder was loaded with {versions}, and its outputs compared with the JAX model's. They \
differed by at most {same:.1e} from the same tensors, and by {file:.1e} from a video file on, relative to the largest \
output where that is above 1."""
    return text


def _largest(rows: Iterable[Difference], limit: float) -> float:
    """The largest difference, relative to the largest output where that is above 1."""
    return max(row.max_abs / row.limit for row in rows) * limit


def _table(rows: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows.items() if text)])


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10 if number % 100 not in (11, 12, 13) else 0, "th")
    return f"{number}{ending}"
