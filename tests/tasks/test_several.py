"""Fine-tuning on several folders: what each clip teaches, its loss by hand, teachers, and the command."""

import functools
import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from avemo_jax.cli import main
from avemo_jax.config import load_config, to_json
from avemo_jax.errors import UserError
from avemo_jax.evaluation import outcomes
from avemo_jax.evaluation.choosing import LEGACY, LEGACY_LAST, choices, result_of
from avemo_jax.models.params import split
from avemo_jax.tasks import clips, finetuning, lessons, looks, make_task
from avemo_jax.tasks.heads import heads_of, of_head, single_configs, single_params
from avemo_jax.training import workdir
from avemo_jax.training.checkpoint_files import BEST, FOLDER, load_params, save_params, step_name
from avemo_jax.training.checkpoints import Record
from avemo_jax.training.mesh import make_mesh
from avemo_jax.training.starting import placed
from avemo_jax.training.state import TrainState
from avemo_jax.training.watching import LOOKS, best_of, read_looks, write_looks
from input_pipeline.records import open_records
from input_pipeline.targets import Target
from tests.evaluation import synthetic
from tests.tasks.small import fresh

quickly = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SIZES = (
    "model.dim=24", "model.depth=2", "model.fusion_depth=1", "model.image_size=32", "model.frames=4",
    "model.audio_frames=32", "model.mel_bins=32", "model.drop_path=0.0", "batch_size=8", "data.workers=0",
    "views.batch_size=12", "views.crops=1", "views.segments=1",
)  # fmt: skip
PLAIN = (
    "mix.probability=0.0", "augment.crop_area=(1.0,1.0)", "augment.flip=0.0", "augment.erase=0.0",
    "data.audio_gain=false",
)  # fmt: skip
HEADS = (
    "heads.shade.label=shade", "heads.shade.classes=dark,bright", "heads.shade.protocol=split",
    "heads.rated.label=rating", "heads.rated.target=values", "heads.rated.classes=", "heads.rated.loss=mse",
    "heads.rated.protocol=folds", "heads.rated.fold=1", "model.classes=3", "select.by=last",
    "heads.shade.development=0", "heads.rated.development=0",
)  # fmt: skip
CHOSEN = ("select.by=development", "heads.shade.development=3", "heads.rated.development=3")
NAME = "finetune/several:demo,shade=recipe,rated=recipe"


def config_of(*overrides):
    return load_config(NAME, [*SIZES, *HEADS, *overrides])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two folders of the same 48 clips, `one` and `two`."""
    place = tmp_path_factory.mktemp("several")
    synthetic.write_folder(place / "one")
    synthetic.write_changed(place / "two", place / "one", lambda record: record)
    return place


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(load_config("finetune/recipe:demo").mesh)


def of_folders(place, *overrides):
    config = config_of(f"data.paths={place / 'one'},{place / 'two'}", *overrides)
    heads = heads_of(config)
    singles = single_configs(config, heads)
    return config, heads, singles, lessons.partitions(heads, singles)


def teacher_config(*overrides):
    words = ("data.label=shade", "data.classes=bright,dark", "model.classes=2", "data.protocol=split")
    return load_config("finetune/recipe:demo", [*SIZES, *words, "select.by=last", *overrides])


@pytest.fixture(scope="module")
def weights():
    """Of a classifier of two classes that has learnt nothing."""
    return jax.tree.map(np.asarray, split(fresh(make_task(teacher_config()), seed=5))[1])


def write_teacher(path, place, weights, *overrides):
    """The work directory of a fine-tuned run with these weights."""
    config = teacher_config(f"data.path={place / 'one'}", *overrides)
    save_params(path, config, weights, step=3)
    (path / "config.json").write_text(to_json(config))
    return path


# -- what clips teach ----------------------------------------------------------------------------------------


def test_a_clip_teaches_its_own_folder_s_head_alone(place, mesh):
    taught = lessons.lessons(*of_folders(place), mesh)
    assert len(taught.positions) == 36 + 22  # split train of the first; two of three folds of the second
    tables, one = taught.tables, open_records(place / "one")
    for position in taught.positions:
        record = one[position % 48]
        row = {name: table[position] for name, table in tables.items()}
        if position < 48:
            assert record.split == "train" and row["share"].tolist() == [1, 0]
            own = [0.95, 0.05] if record.labels["shade"] == "dark" else [0.05, 0.95]
            assert row["label"] == pytest.approx([*own, 0])
        else:
            assert record.metadata["fold"] in ("0", "2") and row["share"].tolist() == [0, 1]
            assert row["label"] == pytest.approx([0, 0, record.labels["rating"]])
    untaught = np.setdiff1d(np.arange(96), taught.positions)
    assert not tables["share"][untaught].any() and not tables["label"][untaught].any()
    assert not tables["pupil"].any() and not tables["taught"].any()


def test_a_teacher_s_outputs_are_those_of_its_own_run_in_the_head_s_order(place, mesh, weights, tmp_path):
    from avemo_jax.evaluation.views import Viewer
    from input_pipeline.targets import target_of

    teacher = write_teacher(tmp_path / "teacher", place, weights)
    said = []
    of = of_folders(place, f"heads.shade.teacher={teacher}", "distill.temperature=2.0")
    taught = lessons.lessons(*of, mesh, said.append, tmp_path / "kept")
    assert said == [f"shade: {teacher} was asked about 36 of 36 clips"]
    again = lessons.lessons(*of, mesh, said.append, tmp_path / "kept")
    assert said[1] == f"shade: {teacher} had been asked about 36 of 36 clips"
    np.testing.assert_array_equal(again.tables["taught"], taught.tables["taught"])
    assert taught.tables["pupil"].sum(0).tolist() == [36, 0] and not taught.tables["taught"][:, 2].any()
    config, params, _ = load_params(teacher)
    viewer = Viewer(config, target_of(config.data), mesh)
    read, outputs = viewer.merged(viewer.placed(params), [p for p in taught.positions if p < 48])
    softer = np.sqrt(outputs[:, ::-1])  # bright, dark → dark, bright
    found = taught.tables["taught"][read, :2]
    np.testing.assert_allclose(found, softer / softer.sum(-1, keepdims=True), atol=1e-6)


def test_a_teacher_is_asked_again_when_anything_that_its_answer_follows_from_has_changed(place, tmp_path):
    class Teacher:  # counts how often it is asked; real ones are asked above
        asked = 0

        def placed(self, params):
            return params

        def merged(self, params, positions):
            self.asked += 1
            return np.array(positions), np.full((len(positions), 2), params["bias"].sum())

    def asked(config=None, weights=1.0, positions=(1, 2), data="one"):
        config = config or teacher_config(f"data.path={place / data}")
        teacher = Teacher()
        params = {"bias": np.full(2, weights, np.float32)}
        read, outputs, is_new = lessons._outputs(teacher, config, params, positions, tmp_path)
        assert read.tolist() == list(positions) and (outputs == 2 * weights).all()
        assert is_new == (teacher.asked == 1)
        return is_new

    synthetic.write_changed(tmp_path / "other", place / "one", lambda record: replace(record, speaker="x"))
    assert asked() and not asked()
    others = ("views.segments=3", "data.frame_stride=3", "model.frames=8")
    assert all(asked(teacher_config(f"data.path={place / 'one'}", word)) for word in others)
    assert not asked(teacher_config(f"data.path={place / 'one'}", "views.batch_size=3"))
    assert asked(weights=2.0) and asked(positions=(1, 3)) and asked(data=tmp_path / "other")
    for path in tmp_path.glob("*.npz"):  # cut short, as no crash leaves it
        path.write_bytes(path.read_bytes()[:-9])
    assert asked() and not asked()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("data.development=5",), "data.development=5, and heads.shade.development is 3: .* chosen by here"),
        (
            ("data.protocol=folds", "data.fold=0"),
            "fine-tuned with data.protocol=folds, and heads.shade.protocol is split",
        ),
        (("data.protocol=",), "data.protocol=empty.* it has learnt from clips that are tested here"),
        (
            ("data.classes=dark,grey",),
            r"predicts class \(dark, grey\), and heads.shade class \(dark, bright\)",
        ),
    ],
)
def test_a_teacher_of_other_outputs_or_of_tested_clips_is_refused_in_one_line(
    place, mesh, weights, tmp_path, words, hint
):
    teacher = write_teacher(tmp_path / "teacher", place, weights, *words)
    with pytest.raises(UserError, match=hint) as error:
        lessons.lessons(*of_folders(place, f"heads.shade.teacher={teacher}", *CHOSEN), mesh)
    assert "\n" not in str(error.value)


def test_a_teacher_that_dealt_speakers_otherwise_or_had_other_clips_is_refused(
    place, mesh, weights, tmp_path
):
    """Some clips have no second label, so the same protocol tests on other speakers."""

    def change(record):
        keeps = record.speaker == "p1" or int(record.clip_id[4:]) % 12 < int(record.speaker[1]) + 2
        record.labels["some"] = record.labels["shade"] if keeps else ""
        return record

    synthetic.write_changed(tmp_path / "one", place / "one", change)
    protocol = ("protocol=speaker_folds", "fold=0")

    def asked(label):
        words = [f"data.{word}" for word in (*protocol, "development=0", f"label={label}")]
        teacher = write_teacher(tmp_path / label, place, weights, *words)
        words = [f"heads.shade.{word}" for word in (*protocol, f"teacher={teacher}")]
        of = of_folders(place, f"data.paths={tmp_path / 'one'},{place / 'two'}", *words)
        return lambda: lessons.lessons(*of, mesh, lambda _: None)

    with pytest.raises(UserError, match="was split otherwise .* learnt from clips that are tested here"):
        asked("some")()
    same = asked("shade")
    assert len(same().positions) == 36 + 22
    (tmp_path / "shade" / "rows.json").write_text('[{"split_hash": "of other clips"}]')
    with pytest.raises(UserError, match="had other clips or folds .hash of other cli. than"):
        same()


@pytest.mark.parametrize(("patience", "last"), [(0, "last"), (5, LEGACY_LAST)])
def test_weights_that_test_clips_had_a_say_in_are_called_so(tmp_path, patience, last):
    config = teacher_config("select.by=test", "select.score=uar", f"select.patience={patience}")
    write_looks(tmp_path / LOOKS, [{"step": 4, "test_uar": 1.0}])
    assert [name for name, _ in choices(config, tmp_path)] == [LEGACY, last]


def test_the_weights_of_the_run_are_those_that_its_heads_have(tmp_path):
    """The chosen ones, of the best look; the last ones, of a run that chooses none."""
    write_looks(tmp_path / LOOKS, [{"step": 2, "development_mean_score": 0.5}, {"step": 4}])
    for words, step, selection in (
        (CHOSEN, 2, "best on the development clips"),
        ((), None, "last"),
    ):
        config = config_of(*words)
        (tmp_path / "config.json").write_text(to_json(config))
        first = choices(config, tmp_path)[0]  # what `hand_out` gives to heads/NAME
        assert result_of(tmp_path) == first[::-1] and first[0] == selection
        assert first[1] == (tmp_path / BEST / FOLDER / step_name(step) if step else tmp_path)


def test_a_pretrained_run_is_no_teacher(place, mesh, tmp_path):
    synthetic.write_checkpoint(tmp_path / "run")
    with pytest.raises(UserError, match="is not a run of avemo finetune"):
        lessons.lessons(*of_folders(place, f"heads.shade.teacher={tmp_path / 'run'}"), mesh)


def test_a_batch_brings_what_its_clips_teach(place, mesh):
    config, *of = of_folders(place)
    taught = lessons.lessons(config, *of, mesh)
    with_tables = clips.make_loader(config, **taught._asdict())
    batch = next(iter(with_tables))
    with_tables.close()
    shapes = make_task(config).batch_shapes()
    assert {name: (field.shape, field.dtype) for name, field in batch.items()} == {
        name: (shape.shape, shape.dtype) for name, shape in shapes.items()
    }
    assert set(batch["position"].tolist()) <= set(taught.positions)
    for name, table in taught.tables.items():
        np.testing.assert_array_equal(batch[name], table[batch["position"]])


# -- the loss ------------------------------------------------------------------------------------------------


def batch_of(task, rng):
    shapes, count = task.batch_shapes(), task.config.batch_size
    own = np.arange(count) % 2
    share = np.eye(2, dtype=np.float32)[own]
    label = (
        np.concatenate([rng.dirichlet([1, 1], count), rng.normal(size=(count, 1))], 1) * share[:, [0, 0, 1]]
    )
    known = (share * (np.arange(count) < 4)[:, None]) * [1, 0]  # the first head alone has a teacher
    taught = np.concatenate([rng.dirichlet([1, 1], count), np.zeros((count, 1))], 1) * known[:, [0, 0, 1]]
    made = {
        "video": rng.integers(0, 256, shapes["video"].shape, np.uint8),
        "waveform": rng.integers(-9000, 9000, shapes["waveform"].shape).astype(np.int16),
        "waveform_length": np.full(count, shapes["waveform"].shape[1], np.int32),
        "waveform_mean": np.zeros(count, np.float32),
        "position": rng.permutation(100)[:count].astype(np.int32),
        "label": label.astype(np.float32),
        "taught": taught.astype(np.float32),
        "share": share,
        "pupil": known.astype(np.float32),
    }
    return jax.tree.map(jnp.asarray, made)


def by_hand(outputs, parts, temperature, heard):
    """The loss of clips that are sums of parts (share of the clip, batch): in NumPy."""
    total = 0.0
    logs = special.log_softmax(outputs[:, :2], -1)
    cooled = special.softmax(outputs[:, :2] / temperature, -1)
    square = {}
    for kept, batch in parts:
        label, taught, share, pupil = (
            np.asarray(batch[n], float) for n in ("label", "taught", "share", "pupil")
        )
        shade = (share - heard * pupil)[:, 0] * -(label[:, :2] * logs).sum(-1)
        said = np.where(pupil[:, :1] > 0, taught[:, :2], cooled)
        shade = shade + heard * pupil[:, 0] * temperature**2 * special.rel_entr(said, cooled).sum(-1)
        total += kept * 3.0 * shade.mean()
        square[kept] = share[:, 1], label[:, 2]
    # Values that are mixed are one value between: the square of the error of the mean, not the mean of two.
    share = sum(kept * its for kept, (its, _) in square.items())
    value = sum(kept * its for kept, (_, its) in square.items()) / np.maximum(share, 1e-12)
    return total + 0.5 * (share * np.square(outputs[:, 2] - value)).mean()


def test_the_loss_is_the_weighted_sum_of_labels_and_teachers(place):
    task = make_task(
        config_of(*PLAIN, "heads.shade.teacher=x", "heads.shade.weight=3", "heads.rated.weight=0.5",
                  "distill.weight=0.7", "distill.temperature=2.0")
    )  # fmt: skip
    batch, model, key = batch_of(task, np.random.default_rng(0)), fresh(task), jax.random.key(0)
    graph, params = split(model)

    def both(params):
        from avemo_jax.models.params import merge

        model = merge(graph, params)
        clip, _ = task.view(batch, clips.clip_keys(key, batch), key)
        return task.loss(model, batch, key), model(clip)[0]

    (loss, terms), outputs = quickly(both)(params)
    expected = by_hand(np.asarray(outputs, float), [(1.0, batch)], 2.0, 0.7)
    assert float(loss) == pytest.approx(expected, rel=1e-4)
    assert set(terms) == {"shade_loss", "shade_taught", "rated_loss"}


def test_clips_of_different_folders_may_be_mixed(place):
    task = make_task(
        config_of(*PLAIN[1:], "mix.probability=1.0", "mix.cutmix=0.0", "heads.shade.teacher=x",
                  "heads.shade.weight=3", "heads.rated.weight=0.5", "distill.weight=0.7")
    )  # fmt: skip
    batch, key = batch_of(task, np.random.default_rng(1)), jax.random.key(0)
    graph, params = split(fresh(task))

    def both(params):
        from avemo_jax.models.params import merge

        model = merge(graph, params)
        clip, mixed = task.view(batch, clips.clip_keys(key, batch), key)
        return task.loss(model, batch, key)[0], model(clip)[0], mixed

    loss, outputs, mixed = quickly(both)(params)
    kept = float(mixed[0, 6])  # share of the first head in a clip of it, whose partner is of the other
    assert 0 < kept < 1
    parts = [(kept, batch), (1 - kept, {name: field[::-1] for name, field in batch.items()})]
    expected = by_hand(np.asarray(outputs, float), parts, 1.0, 0.7)
    # A mixed teacher is one distribution, as the mixed value is: only the supervised part is a plain sum.
    pupil, taught = mixed[:, 8], mixed[:, 3:5]
    said = np.asarray(taught, float) / np.maximum(np.asarray(pupil, float), 1e-12)[:, None]
    of_sum = (pupil * special.rel_entr(said, special.softmax(np.asarray(outputs)[:, :2], -1)).sum(-1)).mean()
    of_parts = 0.0
    for share, part in parts:
        its, told = np.asarray(part["pupil"], float)[:, 0], np.asarray(part["taught"], float)[:, :2]
        of_parts += share * (its * special.rel_entr(told, special.softmax(outputs[:, :2], -1)).sum(-1)).mean()
    assert float(loss) == pytest.approx(expected + 3.0 * 0.7 * float(of_sum - of_parts), rel=1e-4)


# -- looks ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_look_has_each_head_s_scores_as_its_own_run_would_and_their_mean_ends_the_run(
    place, mesh, weights, tmp_path
):
    words = (*CHOSEN, "heads.rated.fold=0", "select.patience=1", "select.every_epochs=0.5")
    config, heads, singles, parts = of_folders(place, *words)
    assert [len(part.development) for part in parts] == [12, 7]
    assert all(part.unit == "speaker" for part in parts)
    watch = looks.make_watch(
        config, lessons.watched(heads, singles, parts), tmp_path / "run", mesh, lambda _: None
    )
    steps = sum(len(part.train) for part in parts) / 8
    assert watch.is_due(round(steps / 2), 99) and not watch.is_due(round(steps / 2) + 1, 99)

    wider = {name: np.concatenate([of, of[..., :1]], -1) for name, of in weights["head"].items()}
    params = placed({**weights, "head": wider}, mesh)
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, zero, zero, params, None, None)
    record = Record(step=0, config=json.loads(to_json(config)))
    found = watch.look(2, state, record)
    assert not watch.is_over and watch.best_step == 2
    assert watch.look(4, state, record) == found
    assert watch.is_over and watch.best_step == 2  # no better one
    assert found["development_mean_score"] == pytest.approx(
        (found["development_shade_uar"] + found["development_rated_ccc"]) / 2
    )
    recalls = [found[f"development_shade_recall_{name}"] for name in ("dark", "bright")]
    assert found["development_shade_uar"] == pytest.approx(np.mean(recalls))

    # A run of one head alone sees the same.
    (head, _), (single, _), (part, _) = heads, singles, parts
    with single.unlocked():
        single.select.score = "war"
    alone = looks.make_watch(single, [looks.Watched(single, part)], tmp_path / "one", mesh, lambda _: None)
    state = replace(state, params=single_params(params, head))
    for name, value in alone.look(2, state, record).items():
        assert found[name.replace("development_", "development_shade_")] == pytest.approx(value)


def test_heads_of_different_targets_have_merits_that_are_better_when_higher():
    shares = Target("distribution", ("votes",), ("a", "b"))
    assert outcomes.merit(shares, {"js": 0.0, "uar": 0.1}) == 1
    assert outcomes.merit(shares, {"js": np.log(2), "uar": 0.9}) == pytest.approx(0)
    assert outcomes.merit(Target("values", ("v",)), {"ccc": -0.5, "mae": 3.0}) == -0.5


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("select.by=dev",), "select.by is 'dev', not development, last or test"),
        (
            ("heads.shade.development=0", "heads.rated.development=0"),
            "heads.shade.development = heads.rated.development = 0: nothing is held out to choose by",
        ),
    ],
)
def test_what_there_is_nothing_to_choose_by_for_is_one_line(place, mesh, tmp_path, words, hint):
    config, *of = of_folders(place, *CHOSEN, *words)
    with pytest.raises(UserError, match=hint) as error:
        looks.make_watch(config, lessons.watched(*of), tmp_path, mesh)
    assert "\n" not in str(error.value)


def test_a_head_whose_speakers_cannot_be_held_out_has_no_development_clips(tmp_path, place):
    synthetic.write_changed(tmp_path / "two", place / "one", lambda record: replace(record, speaker=""))
    paths = f"data.paths={place / 'one'},{tmp_path / 'two'}"
    with pytest.raises(
        UserError, match="heads.rated.development=3 can hold out clips of .*two by fold alone"
    ):
        of_folders(place, *CHOSEN, paths)
    *_, singles, parts = of_folders(place, *CHOSEN, paths, "heads.rated.development=0")
    assert [len(part.development) for part in parts] == [12, 0]
    assert finetuning.partition_of(singles[1]) is not None  # as suites read it of the finished run


# -- configs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (("model.classes=4",), "model.classes is 4, and the heads have 3 outputs together"),
        (("heads.rated.loss=ccc",), "heads.rated.loss=ccc is none for its target: mse, l1, smooth_l1"),
        (("heads.shade.label=",), "heads.shade needs labels: set heads.shade.label"),
        (("heads.shade.target=votes",), "heads.shade: heads.shade.target 'votes'"),
        (("heads.shade.weight=-1",), "heads.shade.weight=-1.0 is below 0"),
        (("distill.weight=1.5",), "distill.weight=1.5 must lie in 0"),
        (("distill.temperature=0",), "distill.temperature=0.0 above 0"),
    ],
)
def test_what_does_not_go_together_is_one_line(overrides, hint):
    with pytest.raises(UserError, match=hint) as error:
        make_task(config_of(*overrides))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("demo", "takes two heads or more"),
        ("demo,crema_d", "takes two heads or more"),
        ("demo,crema_d,crema_d", "head 'crema_d' is there twice"),
        ("demo,crema_d,a-b=ravdess", "head 'a-b' is no name"),
        ("demo,crema_d,ravdes", "did you mean '.*ravdess'"),
    ],
)
def test_heads_that_there_are_not_are_one_line(name, hint):
    with pytest.raises(UserError, match=hint):
        load_config(f"finetune/several:{name}")


def test_folders_protocols_and_the_verb_are_asked_for(place, tmp_path, capsys):
    with pytest.raises(UserError, match="1 folders for 2 heads: give one for each of shade, rated"):
        single_configs(*(lambda config: (config, heads_of(config)))(config_of(f"data.path={place / 'one'}")))
    with pytest.raises(UserError, match="heads.rated.protocol is empty"):
        of_folders(place, "heads.rated.protocol=")
    with pytest.raises(UserError, match="heads.rated.fold is '9': protocol folds of .*two has 0, 1, 2"):
        of_folders(place, "heads.rated.fold=9")
    with pytest.raises(UserError, match="heads.shade.pool=.* another target than others of its whole"):
        of_folders(place, "heads.shade.pool=(clip)")
    begun = json.loads(to_json(config_of()))  # by a version that chose nothing
    del begun["select"], begun["heads"]["shade"]["development"], begun["heads"]["rated"]["development"]
    (tmp_path / "config.json").write_text(json.dumps(begun))
    workdir.check_config(tmp_path, config_of())
    with pytest.raises(
        UserError, match="development was 0 and is 3.* select.by was 'last' and is 'development'"
    ):
        workdir.check_config(tmp_path, config_of(*CHOSEN))
    assert main(["train", "--config", NAME, "--workdir", str(tmp_path / "run")]) == 2
    assert "avemo finetune reads first" in capsys.readouterr().err and not (tmp_path / "run").exists()


# -- the command ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_leaves_each_head_as_a_run_of_its_own_that_can_be_judged_and_taught_by(
    place, weights, tmp_path, capsys
):
    teacher = write_teacher(tmp_path / "teacher", place, weights, "data.development=3")
    words = [
        *SIZES, *HEADS, *PLAIN, *CHOSEN, f"data.paths={place / 'one'},{place / 'two'}",
        f"heads.shade.teacher={teacher}", "total_steps=3", "log.every_steps=1", "log.samples_every_steps=0",
        "ema.decay=0.0", "select.every_epochs=0.2", "checkpoint.keep=9",
    ]  # fmt: skip
    line = [
        "finetune",
        "--config",
        NAME,
        "--workdir",
        str(tmp_path / "run"),
        "--json",
        str(tmp_path / "rows.json"),
    ]
    line += [f"--config.{word}" for word in words]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "was asked about 24 of 24 clips" in printed and "\nrated:\n" in printed
    metrics = [json.loads(text) for text in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for row in metrics:
        whole = 0.2 * row["shade_loss"] + 0.8 * row["shade_taught"] + row["rated_loss"]
        assert row["loss"] == pytest.approx(whole, rel=1e-4)
    found = read_looks(tmp_path / "run" / LOOKS)
    assert [look["step"] for look in found] == [1, 2, 3]
    for row, look in zip(metrics, found, strict=True):
        assert {name: row[name] for name in look} == look
        mean = (look["development_shade_uar"] + look["development_rated_ccc"]) / 2
        assert look["development_mean_score"] == pytest.approx(mean)
    best = best_of(found, "development_mean_score")
    rows = json.loads((tmp_path / "rows.json").read_text())
    chosen = "best on the development clips"
    assert [tuple(row[key] for key in ("head", "n", "n_train", "selection", "step")) for row in rows] == [
        ("shade", 12, 24, chosen, best),
        ("shade", 12, 24, "last", 3),
        ("rated", 14, rows[2]["n_train"], chosen, best),
        ("rated", 14, rows[2]["n_train"], "last", 3),
    ]
    checkpoint, selection = result_of(tmp_path / "run")
    assert load_params(checkpoint)[2] == best and selection == chosen
    assert {"uar", "war"} <= rows[0].keys() and {"ccc", "mae"} <= rows[2].keys()
    _, whole, _ = load_params(tmp_path / "run" / "checkpoints" / step_name(best))
    for name, columns in (("shade", slice(0, 2)), ("rated", slice(2, 3))):
        folder = tmp_path / "run" / "heads" / name
        checkpoint, selection = result_of(folder)
        config, params, its_step = load_params(checkpoint)
        assert config.task == "finetune" and its_step == best and selection == chosen
        np.testing.assert_array_equal(params["head"]["kernel"], whole["head"]["kernel"][:, columns])
        np.testing.assert_array_equal(params["feature_norm"]["scale"], whole["feature_norm"]["scale"])
        assert (folder / "predictions.csv").exists() and (folder / "table.txt").exists()
    rated = f"heads.rated.teacher={tmp_path / 'run' / 'heads' / 'rated'}"
    assert (
        lessons.lessons(*of_folders(place, rated, *CHOSEN), make_mesh(config.mesh))
        .tables["taught"][:, 2]
        .any()
    )
    judged = ["evaluate", "--checkpoint", tmp_path / "run" / "heads" / "shade", "--data", place / "one"]
    judged += ["--suite", "calibration", "--out", tmp_path / "judged"]
    assert main([str(word) for word in judged]) == 0
    # As after a kill at step 3, when the newest whole checkpoint was that of step 1: the same looks, the same said.
    for step in (2, 3):
        shutil.rmtree(tmp_path / "run" / "checkpoints" / step_name(step))
    capsys.readouterr()
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "had been asked about 24 of 24 clips" in printed and "resuming at step 1 of 3" in printed
    again = read_looks(tmp_path / "run" / LOOKS)
    assert [look["step"] for look in again] == [1, 2, 3] and best_of(again, "development_mean_score") == best
    for one, other in zip(found, again, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for one, other in zip(rows, json.loads((tmp_path / "rows.json").read_text()), strict=True):
        assert (one["step"], one["selection"]) == (other["step"], other["selection"])
        assert one[score := "uar" if "uar" in one else "ccc"] == pytest.approx(other[score], rel=1e-4)


def test_keys_of_a_single_run_are_said_as_those_of_the_head_and_folders_stay_as_they_are():
    text = "data.label, views.pool of /mnt/data.fold/x: data.split, data.labels"
    assert (
        of_head(text, "shade")
        == "heads.shade.label, heads.shade.pool of /mnt/data.fold/x: data.split, data.labels"
    )
