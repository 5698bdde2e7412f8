"""Alignment with texts: its loss beside NumPy, clips without a text or a stream, and a run from descriptions to
answers."""

from __future__ import annotations

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from avemo_jax import augmentation
from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.models.params import merge, split
from avemo_jax.tasks import clips, make_task
from avemo_jax.training import mesh as mesh_lib
from avemo_jax.training.checkpoint_files import save_params
from avemo_jax.training.checkpoints import load_params
from avemo_jax.training.gradients import loss_and_grads
from input_pipeline.describing import WRITERS
from tests.convert.test_text_tower import write_tower
from tests.evaluation import synthetic
from tests.tasks.small import batch, check_learned_temperature, fresh
from tests.tasks.test_missing import HEARD, SEEN

SMALL = (
    *("model.dim=16", "model.heads=2", "model.depth=2", "model.image_size=32", "model.frames=4"),
    *("model.audio_frames=32", "model.mel_bins=32"),
)
ALIGNED = (*SMALL, "model.text_dim=10", "model.shared_dim=6", "batch_size=8")
NUMBER = np.array([3, 3, -1, 0, 5, -1, 2, 1], np.int32)
PAIRS = ("video-text", "text-joint", "video-audio")
WEIGHTS = (1.0, 0.5, 2.0)
VIEWS = ("video", "audio", "joint", "text")
METHODS = ("video_mae", "audio_mae", "av_mae", "cav_mae", "mjepa")  # which have no config of their own
QUICKLY = {"xla_backend_optimization_level": 0}  # run once: compiling is what takes time


def texts(number):
    """Vectors of which equal numbers have the same, and zeros where there is no text."""
    known = np.random.default_rng(1).standard_normal((8, 10)).astype(np.float32)
    return np.where((number < 0)[:, None], 0, known[number]).astype(np.float32)


@functools.cache
def aligned(*overrides):
    """(task, parts of the model, a batch of eight clips of which two have no text)."""
    told = (
        *(f"contrast.pairs={','.join(PAIRS)}", f"contrast.weights={','.join(map(str, WEIGHTS))}"),
        "model.learned_temperature=0.07",
    )
    task = make_task(load_config("vaemo_text:demo", [*ALIGNED, *told, *overrides]))
    of = batch(8) | {"text": jnp.asarray(texts(NUMBER)), "text_number": jnp.asarray(NUMBER)}
    graphdef, params = split(fresh(task))
    rng = np.random.default_rng(2)
    params["head"] = jax.tree.map(
        lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), params["head"]
    )
    return task, graphdef, params, of


def infonce(first, second, number):
    """The definition, clip by clip: against clips of other texts; 0 without a clip."""
    first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in np.float64([first, second]))
    logits, terms = first @ second.T / 0.07, []
    for i in np.flatnonzero(number >= 0):
        others = [j for j in range(len(number)) if number[j] >= 0 and (j == i or number[j] != number[i])]
        both = logsumexp(logits[i, others]) + logsumexp(logits[others, i])
        terms.append(both / 2 - logits[i, i])
    return np.mean(terms or [0.0])


@functools.cache
def computing(*overrides):
    task, graphdef, _, _ = aligned(*overrides)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def compute(params, of):
        model, key = merge(graphdef, params), jax.random.key(0)
        seen = clips.seen(of, task.config, None)
        return task.loss(model, of, key), model.encode(seen), task.embeddings(model, of, key)

    return compute


EVERY = np.ones(8, bool)


@pytest.mark.parametrize(
    "seen, heard, overrides",
    [
        (EVERY, EVERY, ()),
        (SEEN, HEARD, ("data.allow_missing=true",)),
        (EVERY, ~EVERY, ("data.allow_missing=true",)),
    ],
    ids=["complete", "some lack a stream", "pictures alone"],
)
def test_the_loss_is_that_of_its_equations_and_a_clip_is_in_the_pairs_of_what_it_has(seen, heard, overrides):
    of = augmentation.without(aligned()[3], jnp.asarray(~seen), jnp.asarray(~heard))
    params = aligned()[2]
    (loss, terms), features, vectors = jax.tree.map(np.asarray, computing(*overrides)(params, of))
    head = jax.tree.map(lambda x: np.asarray(x, np.float64), params["head"])
    means = {"video": features.video_layers[-1].mean(1), "audio": features.audio_layers[-1].mean(1)}
    fused = (features.fused_video.mean(1), features.fused_audio.mean(1))
    given = {**means, "joint": np.concatenate(fused, axis=1), "text": np.asarray(of["text"])}
    plain = {name: vector @ head[name]["kernel"] + head[name]["bias"] for name, vector in given.items()}
    for name, vector in plain.items():
        np.testing.assert_allclose(vectors[name], vector, atol=1e-5)
    text = plain["text"] + (NUMBER < 0)[:, None]
    expected = {
        "video_text": infonce(plain["video"], text, np.where(seen, NUMBER, -1)),
        "text_joint": infonce(text, plain["joint"], np.where(seen & heard, NUMBER, -1)),
        "video_audio": infonce(plain["video"], plain["audio"], np.where(seen & heard, np.arange(8), -1)),
    }
    for name, value in expected.items():
        assert terms[f"loss_contrast_{name}"] == pytest.approx(value, rel=1e-4), name
    assert loss == pytest.approx(np.dot(WEIGHTS, list(expected.values())), rel=1e-4)
    assert terms["described_share"] == 0.75


def test_a_learned_temperature_begins_as_the_fixed_one_and_is_learned():
    check_learned_temperature(
        lambda override: make_task(load_config("vaemo_text:demo", [*ALIGNED, override])), aligned()[3]
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_encoder_is_aligned_by_the_modalities_that_it_has(method):
    task = make_task(load_config(f"text_after:{method}:demo", [*ALIGNED, "model.depth=1"]))
    graphdef, params = split(jax.eval_shape(task.init_model, jax.random.key(0)))
    rng = np.random.default_rng(4)
    params = jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape).astype(np.float32), params)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def compute(params, of):
        vectors = task.embeddings(merge(graphdef, params), of, jax.random.key(0))
        return vectors, *task.comparison(vectors)

    vectors, loss, terms = jax.tree.map(np.asarray, compute(params, aligned()[3]))
    seen = {"video_mae": ["video"], "audio_mae": ["audio"]}.get(method, ["video", "audio"])
    expected = {
        f"loss_contrast_{name}_text": infonce(vectors[name], vectors["text"], NUMBER) for name in seen
    }
    found = {name: value for name, value in terms.items() if name.startswith("loss_")}
    assert found == pytest.approx(expected, rel=1e-4)
    assert loss == pytest.approx(sum(expected.values()), rel=1e-4)


def test_clips_can_be_compared_within_groups_and_with_positions_of_a_grid():
    task = make_task(
        load_config("vaemo_text:demo", [*ALIGNED, "contrast.within=speaker", "model.positions=grid"])
    )
    of = aligned()[3] | {"group": jnp.asarray([0, 0, 1, 1, 1, 0, 1, 0], jnp.int32)}
    assert task.batch_shapes()["group"].shape == (8,)
    found = {
        name: jnp.asarray(np.random.default_rng(3).standard_normal((8, 6)), jnp.float32) for name in VIEWS
    }
    found |= {"number": jnp.asarray(NUMBER, jnp.float32)}
    whole, _ = task.comparison(found | {"group": of["group"].astype(jnp.float32)})
    parts = []
    for number in (0, 1):
        rows = np.flatnonzero(np.asarray(of["group"]) == number)
        loss, terms = task.comparison({name: vector[rows] for name, vector in found.items()})
        parts.append(float(loss) * float(terms["described_share"]) * len(rows))
    assert float(whole) == pytest.approx(sum(parts) / (NUMBER >= 0).sum(), rel=1e-5)
    shapes = jax.eval_shape(task.init_model, jax.random.key(0))
    jax.eval_shape(task.loss, shapes, of, jax.random.key(0))


def test_the_weight_of_a_pair_changes_over_the_steps():
    def made(*overrides):
        told = (*ALIGNED, "contrast.pairs=video-text,audio-text", "contrast.weights=2.0,0.5", *overrides)
        return make_task(load_config("vaemo_text:demo", told))

    changing = made("objectives.ramps=(('video-text',1,0,2,6),)", "accumulate=2", "contrast.cached=True")
    rng = np.random.default_rng(3)
    found = {name: jnp.asarray(rng.standard_normal((8, 6)), jnp.float32) for name in VIEWS}
    found |= {"number": jnp.asarray(NUMBER, jnp.float32)}
    compared = jax.jit(changing.comparison, compiler_options=QUICKLY)
    for step, factor in ((0, 1.0), (3, 0.75), (9, 0.0)):
        loss, terms = compared(found, jnp.int32(step))
        expected = 2 * factor * terms["loss_contrast_video_text"] + 0.5 * terms["loss_contrast_audio_text"]
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
        assert float(terms["factor_video_text"]) == pytest.approx(factor)
    assert changing.changes_with_step and not made().changes_with_step

    graphdef, params = split(jax.eval_shape(changing.init_model, jax.random.key(0)))
    mesh = mesh_lib.make_mesh(changing.config.mesh, jax.devices()[:1])
    (_, terms), _ = jax.eval_shape(  # that the loop's step comes to it, with microbatches too
        lambda p, of, step: loss_and_grads(changing, graphdef, p, of, jax.random.key(0), mesh, step=step),
        params,
        changing.batch_shapes(),
        jnp.int32(3),
    )
    assert "factor_video_text" in terms


@pytest.mark.slow
def test_microbatches_and_devices_make_no_difference():
    task, graphdef, params, of = aligned("data.allow_missing=true")
    of = augmentation.without(of, jnp.asarray(~SEEN), jnp.asarray(~HEARD))

    def gradients(count, devices):
        with task.config.unlocked():
            task.config.accumulate, task.config.contrast.cached = count, count > 1
        mesh = mesh_lib.make_mesh(task.config.mesh, jax.devices()[:devices])
        placed = jax.device_put(of, mesh_lib.batch_shardings(of, mesh))
        on_mesh = jax.device_put(params, mesh_lib.shardings(params, mesh))
        compute = jax.jit(
            lambda p, b: loss_and_grads(task, graphdef, p, b, jax.random.key(0), mesh),
            compiler_options=QUICKLY,
        )
        (loss, _), grads = jax.tree.map(np.asarray, compute(on_mesh, placed))
        return loss, grads

    whole, plain = gradients(1, 1)
    for count, devices in ((2, 1), (1, 8)):
        loss, grads = gradients(count, devices)
        assert loss == pytest.approx(whole, rel=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), plain, grads)
    with task.config.unlocked():
        task.config.accumulate, task.config.contrast.cached = 1, False


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("contrast.pairs=video-txt", "'video-txt' is no pair of video, audio, joint, text"),
        ("contrast.pairs=video-audio", "has no pair with text"),
        ("contrast.weights=1.0,2.0,3.0", "2 contrast.pairs need a number each"),
        ("contrast.temperature=0.0", "not above 0"),
        ("contrast.kind=foo", "contrast.kind is 'foo', not one of"),
        (
            "objectives.ramps=(('video-audio',0,1,0,9),)",
            "no term 'video-audio', but video-text, audio-text",
        ),
        ("text.clips=some", "not one of described, all"),
        ("text.clips=all", "clips without one teach nothing"),
    ],
)
def test_what_is_no_alignment_is_refused_in_one_line(override, says):
    with pytest.raises(UserError, match=says):
        make_task(load_config("vaemo_text:demo", [*ALIGNED, override]))


RUN = (
    *(
        "batch_size=8",
        "total_steps=80",
        "log.every_steps=1",
        "data.workers=0",
        "data.crop=none",
        "model.text_dim=24",
    ),
    *(
        "model.shared_dim=16",
        "optimizer.learning_rate=0.05",
        "optimizer.warmup_share=0.0",
        "contrast.temperature=0.2",
    ),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A labelled folder, two clips of it not described; a tower; a first stage, at its start, and a second one."""
    place = tmp_path_factory.mktemp("texts")
    synthetic.write_folder(place / "data")
    write_tower(place / "tower")
    first = load_config(
        "vaemo:demo", [*SMALL, "model.decoder_dim=8", "model.decoder_heads=2", "model.decoder_depth=1"]
    )
    save_params(place / "first", first, split(fresh(make_task(first)))[1])
    lines = [
        json.dumps({"clip_id": f"clip{n:02d}", "text": f"a {'loud' if n % 12 // 3 % 2 else 'quiet'} voice"})
        for n in range(46)
    ]
    (place / "said.jsonl").write_text("\n".join(lines))
    words = ["--data", str(place / "data"), "--tower", str(place / "tower"), "--out", str(place / "texts")]
    words += [
        "--texts",
        str(place / "said.jsonl"),
        "--label",
        "shade",
        "--template",
        "{} .",
        "--words",
        "bright=voices,dark=speak",
    ]
    assert main(["describe", *words]) == 0
    assert main(["train", *train_words(place, "second")]) == 0
    return place


def train_words(place, run, *overrides):
    set_ = [*SMALL, *RUN, f"data.path={place / 'data'}", f"init.checkpoint={place / 'first'}", *overrides]
    if not any(word.startswith("text.path") for word in overrides):
        set_.append(f"text.path={place / 'texts'}")
    return [
        "--config",
        "vaemo_text:demo",
        "--workdir",
        str(place / run),
        *(f"--config.{word}" for word in set_),
    ]


@pytest.mark.slow
def test_a_second_stage_learns_from_descriptions_and_answers_by_texts(place, tmp_path, capsys):
    rows = [json.loads(line) for line in (place / "second" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows]
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:4]) and all(
        row["described_share"] == 1 for row in rows
    )
    config, params, _ = load_params(place / "second")
    begun = load_params(place / "first")[1]
    assert set(begun) - set(params) == {"decoders"} and set(params) - set(begun) == {"head"}
    assert config.text.tower_digest

    out = tmp_path / "asked"
    words = ["--data", str(place / "data"), "--texts", str(place / "texts"), "--tower", str(place / "tower")]
    words += ["--suite", "zero_shot", "text_retrieval", "statements", "--label", "level", "--out", str(out)]
    words += ["--template", "a {} voice", "--batch_size", "16", "--against", str(place / "first")]
    assert main(["evaluate", "--checkpoint", str(place / "second"), *words]) == 0
    found = json.loads((out / "suites.json").read_text())
    wanted = [
        *(("checkpoint", "heads", by) for by in ("video", "audio", "both")),
        *((weights, "fitted", "all") for weights in ("checkpoint", "random", "against")),
    ]
    for suite, score, clips_ in (("zero_shot", "uar", 48), ("text_retrieval", "text_to_clip_r10", 46)):
        assert [(row["weights"], row["map"], row["by"]) for row in found[suite]] == wanted
        for row in found[suite]:
            low, high = row[f"{score}_ci95"]
            assert row["n"] == clips_ and low <= row[score] <= high and row["ci_unit"] == "speaker"
            assert ("difference" in row) == (row["weights"] == "checkpoint")
    heard = next(row for row in found["zero_shot"] if row["by"] == "audio")
    assert heard["uar"] > 0.9  # how loud a clip is, by words that its description had
    same, other = (found["zero_shot"][place_] for place_ in (3, 5))
    assert same["difference"]["uar"] == pytest.approx(same["uar"] - other["uar"])
    judged = found["statements"][0]
    assert judged["n"] == 92 and judged["true_share"] == 0.5 and judged["clips"] == 46
    printed = capsys.readouterr().out
    assert "46 clips with 4 different texts" in printed and "92 statements about 46 clips" in printed

    # Without heads there are maps alone, and features of an aligned run are probed as any other's.
    assert main(["evaluate", "--checkpoint", str(place / "first"), *words[:-2]]) == 0
    found = json.loads((out / "suites.json").read_text())
    assert {row["map"] for rows in found.values() for row in rows} == {"fitted"}
    probe = [
        "--label",
        "level",
        "--random_seeds",
        "0",
        "--features",
        "audio",
        "--out",
        str(tmp_path / "probe"),
    ]
    assert main(["probe", "--checkpoint", str(place / "second"), *words[:2], *probe]) == 0


@pytest.mark.slow
def test_texts_that_do_not_go_with_data_or_tower_are_one_line(place, tmp_path, capsys):
    write_tower(tmp_path / "other", hidden_act="relu")
    (tmp_path / "strange.jsonl").write_text('{"clip_id": "nobody", "text": "a voice"}\n')
    np.savez(tmp_path / "narrow.npz", clip_id=np.array(["clip00"]), embedding=np.ones((1, 7), np.float32))
    np.savez(tmp_path / "others.npz", clip_id=np.array(["nobody"]), embedding=np.ones((1, 24), np.float32))
    data, out = ["--data", str(place / "data")], ["--out", str(tmp_path / "new")]
    asked = ["evaluate", "--checkpoint", str(place / "second"), *data, *out, "--suite"]
    texts_, tower = ["--texts", str(place / "texts")], ["--tower", str(tmp_path / "other")]
    cases = [
        (["train", *train_words(place, "new", "text.path=")], "text.path is empty"),
        (
            ["train", *train_words(place, "new", f"text.path={tmp_path / 'narrow.npz'}")],
            "set --config.model.text_dim=7",
        ),
        (
            ["train", *train_words(place, "new", f"text.path={tmp_path / 'others.npz'}")],
            "none of the 48 clips has a text",
        ),
        (
            ["describe", *data, *out, "--texts", str(tmp_path / "strange.jsonl")],
            "describes 1 clips, none of them in",
        ),
        (
            ["describe", *data, *out, "--by", "nobody"],
            f"--by: no 'nobody'; there are {', '.join(WRITERS)}, or a file of your own",
        ),
        (["describe", *data, *out, "--by", "facts", "--tower", "nowhere"], "no text tower 'nowhere'"),
        ([*asked, "zero_shot", "--label", "tone"], "needs a text tower"),
        ([*asked, "statements", *tower], "needs descriptions"),
        ([*asked, "zero_shot", *tower], "needs --label"),
        ([*asked, "zero_shot", "--label", "tone", *tower], "learnt from the vectors of another tower"),
        ([*asked, "text_retrieval", *texts_, "--template", "no gap"], "is to have {} once"),
    ]
    for words, says in cases:
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2, words
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, error
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "first, second",
    [
        *((f"{method}:demo", f"{method}_text:demo") for method in ("hicmae", "vaemo")),
        *((f"{method}:demo", f"text_after:{method}:demo") for method in METHODS),
    ],
)
def test_a_second_stage_takes_every_part_but_its_heads_from_the_first(first, second):
    def shapes(name):
        made = make_task(load_config(name))
        return made, split(jax.eval_shape(made.init_model, jax.random.key(0)))[1]

    (_, had), (task, wanted) = shapes(first), shapes(second)
    assert set(task.handed_on) == set(wanted) - {"head"} <= set(had)
    learning = make_task(load_config(second, ["model.learned_temperature=0.1"]))
    assert learning.handed_on == task.handed_on
    for part in task.handed_on:
        assert jax.tree.map(lambda x: x.shape, wanted[part]) == jax.tree.map(lambda x: x.shape, had[part]), (
            part
        )
