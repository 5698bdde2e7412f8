"""Training on clips that lack a stream: the loss is that of the clips that have it, and no clip changes what it has
no part in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax import augmentation
from avemo_jax.batch import Outputs, Targets
from avemo_jax.config import load_config
from avemo_jax.objectives import term_of
from avemo_jax.objectives.contrastive import hierarchical_contrast
from avemo_jax.tasks import clips
from tests.evaluation import synthetic
from tests.tasks import test_family
from tests.tasks.small import batch, fresh, task

RNG = np.random.default_rng(0)
SEEN = np.array([1, 1, 0, 1, 1, 0, 1, 1], bool)
HEARD = np.array([1, 0, 1, 1, 0, 1, 1, 1], bool)
BOTH = SEEN & HEARD
TAKING_PART = jnp.where(BOTH, jnp.arange(8), -1)
QUICKLY = {"xla_backend_optimization_level": 0}


def drawn(*shape):
    return jnp.asarray(RNG.standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("chunk", [0, 4])
@pytest.mark.parametrize(
    "kind, direction", [("infonce", "both"), ("infonce", "backward"), ("siglip", "both")]
)
def test_contrast_is_that_of_the_complete_clips_alone(kind, direction, chunk):
    video, audio = drawn(2, 8, 5), drawn(2, 8, 5)
    speakers = jnp.asarray([0, 0, 0, 1, 1, 1, 0, 1])
    options = {"temperature": 0.3, "kind": kind, "direction": direction, "bias": -0.5}
    for within in (None, speakers):
        found, terms = hierarchical_contrast(
            video, audio, same=TAKING_PART, chunk=chunk, within=within, **options
        )
        those = None if within is None else within[BOTH]
        expected, alone = hierarchical_contrast(video[:, BOTH], audio[:, BOTH], within=those, **options)
        assert float(found) == pytest.approx(float(expected), rel=1e-5)
        assert float(terms["contrast_accuracy"]) == pytest.approx(float(alone["contrast_accuracy"]))
    gradient = jax.grad(
        lambda v: hierarchical_contrast(v, audio, same=TAKING_PART, chunk=chunk, **options)[0]
    )(video)
    assert not np.asarray(gradient[:, ~BOTH]).any() and np.asarray(gradient[:, BOTH]).all()


def test_a_batch_without_a_complete_clip_has_no_contrast():
    loss, _ = hierarchical_contrast(drawn(1, 3, 4), drawn(1, 3, 4), temperature=0.1, same=jnp.full(3, -1))
    assert float(loss) == 0


@pytest.mark.parametrize("method, weight", [("mjepa", -1.0), ("vaemo", 0.3)])
def test_each_term_is_the_mean_over_the_clips_that_have_what_it_is_of(method, weight):
    outputs = Outputs(drawn(8, 3, 6), drawn(8, 2, 4), None, None, drawn(8, 3, 6), drawn(8, 2, 4))
    patches = drawn(8, 3, 6), drawn(8, 2, 4)
    made = test_family.task(method, f"target.difference_weight={weight}", "contrast.weight=0.0")
    loss, terms = made.score(outputs, Targets(*patches, jnp.asarray(SEEN), jnp.asarray(HEARD)))
    rows = {"video": SEEN, "audio": HEARD, "video_from_audio": BOTH, "audio_from_video": BOTH}
    for name, which in rows.items():
        some = jax.tree.map(lambda x, which=which: x[which], (outputs, Targets(*patches)))
        _, expected = made.score(*some)
        of_it = [key for key in expected if key.startswith(f"loss_{name}") and key[5:] not in rows] + [
            f"loss_{name}"
        ]
        for key in of_it:
            assert float(terms[key]) == pytest.approx(float(expected[key]), rel=1e-5), key
    assert np.isfinite(float(loss))


def test_the_terms_of_microbatches_have_the_mean_of_those_of_the_batch():
    made = test_family.task("mjepa", "contrast.weight=0.0", "data.allow_missing=true")
    outputs = Outputs(drawn(8, 3, 6), drawn(8, 2, 4), None, None, drawn(8, 3, 6), drawn(8, 2, 4))
    targets = Targets(drawn(8, 3, 6), drawn(8, 2, 4), jnp.asarray(SEEN), jnp.asarray(HEARD))
    _, whole = made.score(outputs, targets)
    video = jnp.asarray(SEEN, jnp.uint8).reshape(8, 1, 1, 1, 1)
    weights = made.before_cutting({"video": video, "waveform_length": jnp.asarray(HEARD, jnp.int32)})
    targets = targets._replace(clip_weights=weights["clip_weights"])
    parts = [
        made.score(*jax.tree.map(lambda x, rows=rows: x[rows], (outputs, targets)))[1]
        for rows in (slice(i, i + 2) for i in range(0, 8, 2))
    ]
    for name, value in whole.items():
        assert np.mean([part[name] for part in parts]) == pytest.approx(float(value), rel=1e-5), name


def test_a_clip_that_is_black_where_the_device_cuts_has_a_picture_in_microbatches_and_in_the_whole_batch():
    made = task("data.allow_missing=true", "data.device_crop=(40,48)")
    of = batch(of=made)
    box = jnp.tile(jnp.asarray([0, 0, 32, 32]), (3, 1))
    video = of["video"].at[1, :, :33, :33].set(0).at[2].set(0)
    of |= {"video": video, "box": box, "flip": jnp.zeros(3, bool)}
    made.score = lambda outputs, targets, step: (targets, {})
    for asked in (of, made.before_cutting(of)):
        targets, _ = made.loss(lambda *clip: None, asked, jax.random.key(0))
        assert targets.video_there.tolist() == [True, True, False] and targets.audio_there.all()
    assert targets.clip_weights[:, 0].tolist() == [1.5, 1.5, 0.0]


def test_uniformity_is_over_the_clips_that_have_the_stream():
    term, video, audio = term_of("uniformity")[1], drawn(1, 8, 5), drawn(1, 8, 5)
    found = term(
        Outputs(None, None, video, audio), Targets(None, None, jnp.asarray(SEEN), jnp.asarray(HEARD))
    )
    alone = [
        float(term(Outputs(None, None, of[:, which], of[:, which]), Targets(None, None)))
        for of, which in ((video, SEEN), (audio, HEARD))
    ]
    assert float(found) == pytest.approx(np.mean(alone), rel=1e-5)


def cases(*slow):
    return [
        pytest.param(name, marks=pytest.mark.slow if name in slow else pytest.mark.nightly)
        for name in ("hicmae", "cav_mae", "vaemo", "mjepa")
    ]


@pytest.mark.parametrize("method", cases("hicmae"))
def test_a_clip_without_a_stream_changes_nothing_that_is_of_the_other_one(method):
    extra = ("data.allow_missing=true", "mask.repeats=2")
    made = task(*extra, clips=4) if method == "hicmae" else test_family.task(method, *extra, count=4)
    model = fresh(made)

    @functools.partial(jax.jit, compiler_options=QUICKLY)
    def terms_of(of):
        teacher = model if made.learns_from_average else None
        return made.loss(model, of, jax.random.key(1), teacher)

    whole = batch(4)
    none = jnp.zeros(4, bool)
    deaf = augmentation.without(whole, none, none.at[1].set(True))
    seen, heard = clips.streams(deaf)
    assert seen.tolist() == [True] * 4 and heard.tolist() == [True, False, True, True]
    loss, terms = terms_of(deaf)
    assert np.isfinite(float(loss))

    # Its picture is another one: nothing of the sound or of both together is.
    other = deaf | {"video": deaf["video"].at[1].set(255 - deaf["video"][1])}
    _, changed = terms_of(other)
    for name, value in terms.items():
        same = float(changed[name]) == float(value)
        assert same == (name not in ("loss_video", "loss_video_frame", "loss_video_difference")), name

    # Where two of three lack sound, what is of the sound is that of the third, whoever the others are.
    two = augmentation.without(whole, none, jnp.asarray([False, True, True, True]))
    rest = two | {"video": two["video"].at[1:].set(255 - two["video"][1:])}
    (_, first), (_, second) = (terms_of(of) for of in (two, rest))
    assert float(first["loss_audio"]) == float(second["loss_audio"]) > 0


def test_clips_that_lack_a_stream_are_counted_over_all_folders(tmp_path):
    lacking = lambda number: {1: "sound", 2: "picture"}.get(number % 12, "")  # noqa: E731
    paths = [tmp_path / name for name in ("whole", "lacking", "another")]
    for path, which in zip(paths, (lambda number: "", lacking, lacking), strict=True):
        synthetic.write_folder(path, which)

    def said(*overrides, name="hicmae:demo"):
        return clips.missing_in_words(load_config(name, overrides))

    assert said(f"data.path={paths[0]}") == ""
    both = f"data.paths={paths[1]},{paths[2]}"
    assert said(both).startswith("8 without picture and 8 without sound among 96 train clips: they count as")
    for name in ("hicmae:demo", "vaemo_text:demo"):
        assert "learnt from" in said(both, "data.allow_missing=true", name=name)
