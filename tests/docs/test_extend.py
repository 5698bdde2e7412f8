"""docs/extend.md: each of its files does what the page says, by itself and without an edit of what is there."""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from avemo_jax import models
from avemo_jax.batch import Outputs, Targets
from avemo_jax.config import from_json, load_config, to_json
from avemo_jax.errors import UserError
from avemo_jax.evaluation import scores
from avemo_jax.evaluation.features import default as default_features
from avemo_jax.evaluation.outcomes import judged
from avemo_jax.tasks import clips, make_task
from input_pipeline.errors import DataError
from input_pipeline.targets import Target
from tests.tasks.small import SIZES, batch, fresh, task

PAGE = (Path(__file__).parents[2] / "docs" / "extend.md").read_text()
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def written(tmp_path, monkeypatch):
    """The page's files, in the folder where its reader is."""
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(r"cat > (\S+) <<'EOF'\n(.*?)^EOF$", PAGE, re.MULTILINE | re.DOTALL):
        Path(name).write_text(text)
    return tmp_path


def outputs(copies):
    levels = [jnp.asarray(RNG.normal(0, 0.5, (2, 3 * copies, 8)), jnp.float32) for _ in "va"]
    nothing = jnp.zeros((3 * copies, 1, 4))
    return Outputs(nothing, nothing, *levels), Targets(nothing, nothing)


def test_an_objective_is_one_file(monkeypatch):
    weighted = ("objectives.terms=my_objective.py", "objectives.weights=0.5", "mask.repeats=2")
    of = outputs(copies=2)
    plain, _ = task("mask.repeats=2").score(*of)
    made = task(*weighted)
    monkeypatch.chdir("/")  # as who looks at the run from elsewhere
    loss, terms = type(made)(from_json(to_json(made.config))).score(*of)
    levels = np.stack([of[0].video_levels, of[0].audio_levels]).astype(np.float64)
    expected = np.mean(
        [np.maximum(0, 1 - np.sqrt(levels[:, :, copy::2].var(2) + 1e-4)).mean() for copy in (0, 1)]
    )
    assert terms["loss_my_objective"] == pytest.approx(expected, rel=1e-5)
    assert float(loss) == pytest.approx(float(plain) + 0.5 * expected, rel=1e-5)


def test_a_metric_is_one_file():
    found = scores.select(["my_metric.py", "kappa"], "--scores")
    truth = np.repeat([0, 1], [10, 20])
    predicted = np.eye(2)[np.where(np.arange(30) % 5 == 0, 1 - truth, truth)]
    row = judged(Target("class", ("x",), ("a", "b")), predicted, truth, np.arange(30) % 6, found)
    assert row["my_metric"] == pytest.approx(0.8) and row["further"] == ["my_metric", "kappa"]
    low, high = row["my_metric_ci95"]
    assert low <= row["my_metric"] <= high


def test_a_method_is_one_file(written, monkeypatch):
    sizes = [word for word in SIZES if not word.startswith(("model.skip", "model.fusion"))]
    config = load_config(
        "my_method.py:demo", [*sizes, "model.heads=2", "model.decoder_heads=2", "batch_size=3"]
    )
    made = make_task(config)
    assert (config.method, made.config.target.cross_weight) == ("cross_mae", 0.5)
    monkeypatch.chdir("/")
    again = make_task(from_json(to_json(config)))
    model, key = fresh(again), jax.random.key(1)
    _, terms = jax.eval_shape(made.loss, model, batch(), key)
    assert {"loss_video_from_audio", "loss_audio_from_video"} <= terms.keys()
    features = jax.eval_shape(lambda of: model.encode(clips.seen(of, config, None)), batch())
    assert features.fused_video is None and features.video_layers.shape[1] == 3
    aligned = make_task(load_config(f"text_after:{written}/my_method.py:demo"))
    assert {"video", "audio", "trunk", "norm"} == set(aligned.handed_on)

    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def seen(model, of):
        return model(*made.view(of, clips.clip_keys(key, of)))

    found = seen(model, batch())
    # What was seen of the sound has no part in what is said of the picture from the picture, and the other way round.
    louder = batch() | {"waveform": batch()["waveform"] // 2}
    changed = seen(model, louder)
    assert np.array_equal(found.video_prediction, changed.video_prediction)
    assert not np.allclose(found.video_from_audio, changed.video_from_audio)


def test_a_method_that_decodes_nothing_is_one_file():
    words = [word for word in SIZES if not word.startswith(("model.skip", "model.fusion", "model.decoder"))]
    made = make_task(load_config("my_contrast.py:demo", [*words, "model.heads=2", "batch_size=3"]))
    of, key = batch(), jax.random.key(1)
    model = jax.eval_shape(made.init_model, key)
    assert not [name for name in made.config.model if name.startswith("decoder")]
    (_, terms), gradients = jax.eval_shape(nnx.value_and_grad(made.loss, has_aux=True), model, of, key)
    assert {name for name in terms if name.startswith("loss_")} == {"loss_contrast"}
    assert gradients.trunk.keys() == {"video", "audio"}
    features = jax.eval_shape(lambda model, of: model.encode(clips.seen(of, made.config, None)), model, of)
    assert features.fused_video is None and default_features(made.config.model)[0] == "cat2"
    with pytest.raises(UserError, match="model.dim 24 is not a multiple of model.heads 7"):
        make_task(load_config("my_contrast.py:demo", [*words, "model.heads=7"])).init_model(key)


def test_a_model_is_asked_for_no_values_but_its_own():
    Path("bare.py").write_text(
        "from flax import nnx\n"
        "class Bare(nnx.Module):\n"
        "    def __init__(self, model, **options):\n"
        "        self.size = model.size\n"
        "    @classmethod\n"
        "    def complaints(cls, model):\n"
        "        return [] if model.size else ['model.size is 0']\n"
        "MODELS = {'pretrain': Bare}\n"
    )
    config = load_config("hicmae:demo")
    with config.unlocked():
        config.assembly, config.model = str(Path("bare.py").absolute()), {"size": 3}
    assert models.build(config, jax.random.key(0)).size == 3
    config.model.size = 0
    with pytest.raises(UserError, match="config does not make a model: model.size is 0"):
        models.build(config, jax.random.key(0))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("objectives.terms=uniform",), "no 'uniform'; there are uniformity, or a file"),
        (("objectives.terms=none.py",), "objectives.terms .*none.py: no such file"),
        (("objectives.terms=my_metric.py",), r"has no term\(outputs, targets\): see docs/extend.md"),
        (("objectives.terms=uniformity", "objectives.weights=1,2"), "1 terms need a number each"),
        (("objectives.terms=uniformity,uniformity",), "two terms are called 'uniformity'"),
        (("objectives.ramp=steep",), "'steep', not one of linear, cosine"),
        (("objectives.ramps=(('colour',0,1,0,9),)",), "no term 'colour', but video, audio, contrast"),
        (("objectives.ramps=(('video',0,1,9,9),)",), "step 9 is not before step 9"),
        (("objectives.ramps=(('video',-1,1,0,9),)",), "numbers from 0 on"),
        (("objectives.ramps=('video',0,1,0,9)",), "a ramp is"),
    ],
)
def test_what_is_no_objective_is_one_line(words, says):
    with pytest.raises((UserError, DataError), match=says) as error:
        task(*words)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("return outputs.video_levels", r"gives an array of shape \(2, 3, 8\), not one number"),
        ("return outputs.scale.sum()", "objective bad fails: AttributeError"),
        ("return undefined", "objective bad fails: NameError"),
    ],
)
def test_an_objective_that_fails_is_one_line(text, says):
    Path("bad.py").write_text(f"def term(outputs, targets):\n    {text}\n")
    with pytest.raises(UserError, match=says) as error:
        task("objectives.terms=bad.py").score(*outputs(copies=1))
    assert "\n" not in str(error.value)


def test_a_metric_that_is_none_or_fails_or_is_called_as_another_is_one_line():
    Path("uar.py").write_text("def score(predicted, truth):\n    return 1.0\n")
    Path("bad.py").write_text("def score(predicted, truth):\n    return predicted[99]\n")
    target, case = Target("class", ("x",), ("a", "b")), (np.eye(2), np.arange(2), np.arange(2))
    for names, says in [
        (["gamma"], "--scores: no 'gamma'; there are kappa, or a file"),
        (["my_objective.py"], r"has no score\(predicted, truth\)"),
        (["kappa", "kappa"], "'kappa' already"),
        (["uar.py"], "results have a 'uar' already"),
        (["bad.py"], "score bad fails: IndexError"),
    ]:
        with pytest.raises((UserError, DataError), match=says):
            judged(target, *case, scores.select(names, "--scores"))


def test_a_model_s_file_is_run_only_from_its_whole_path():
    config = load_config("my_method.py:demo")
    with config.unlocked():
        config.assembly = "my_method.py"  # as a config that came from elsewhere could say
    with pytest.raises(UserError, match="not the whole path"):
        models.build(config, jax.random.key(0))
    with config.unlocked():
        config.assembly = str(Path("gone.py").absolute())
    with pytest.raises(DataError, match="gone.py: no such file"):
        models.build(config, jax.random.key(0))
