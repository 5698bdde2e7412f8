"""The test of a fine-tuned run whose clips are judged several as one."""

import contextlib
import shutil

import jax
import numpy as np
import pytest

from avemo_jax.config import load_config
from avemo_jax.errors import UserError
from avemo_jax.evaluation import outcome_files, suite_tables
from avemo_jax.evaluation.views import Viewer
from avemo_jax.models.params import split
from avemo_jax.tasks import finetuning, looks, make_task, robustness
from avemo_jax.training.checkpoint_files import save_params
from avemo_jax.training.mesh import make_mesh
from tests.evaluation import synthetic
from tests.tasks.small import drawn, fresh
from tests.tasks.test_several import teacher_config

TENS = r"views.pool=clip(\d)\d"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Clips whose label is that of their number's tens."""
    place = tmp_path_factory.mktemp("pooled")
    synthetic.write_folder(place / "whole")

    def change(record):
        record.labels["shade"] = ("bright", "dark")[int(record.clip_id[4]) % 2]
        return record

    synthetic.write_changed(place / "data", place / "whole", change)
    return place / "data"


def config_of(folder, *overrides):
    words = ("data.protocol=folds", "data.fold=1", "data.development=0")
    return teacher_config(f"data.path={folder}", *words, *overrides)


def test_wholes_are_judged_by_the_mean_of_their_clips(folder, tmp_path):
    configs = [config_of(folder, *more) for more in ((), (TENS,))]
    mesh = make_mesh(load_config("finetune/recipe:demo").mesh)
    params = jax.tree.map(np.asarray, split(fresh(make_task(configs[0]), seed=5))[1])
    save_params(tmp_path, configs[0], params, step=3)
    apart, together = (
        finetuning.test(config, finetuning.partition_of(config), tmp_path, mesh)[0] for config in configs
    )
    assert apart.row["n"] == apart.row["clips"] == together.row["clips"] == 14
    assert together.row["n"] == 4 and together.clip_id.tolist() == ["0", "1", "2", "3"]
    tens = np.array([int(clip[4]) for clip in apart.clip_id])
    means = [apart.predicted[tens == ten].mean(0) for ten in range(4)]
    np.testing.assert_allclose(together.predicted, means, atol=1e-9)
    assert together.truth.tolist() == [0, 1, 0, 1]  # bright, dark
    assert together.row["war"] == pytest.approx(np.mean(np.argmax(means, 1) == together.truth))
    clean, swapped = robustness.rows(tmp_path, str(folder), mesh, ("swapped_audio",), lambda _: None)
    assert clean["n"] == swapped["n"] == 14 and clean["war"] == apart.row["war"]
    assert clean["auc"] != swapped["auc"]
    assert 0 < swapped["donors"] <= 14 and 0 <= swapped["follows_donor"] <= 1
    assert "follows the donor" in suite_tables.text({"robustness": [clean, swapped]})
    save_params(tmp_path, configs[1], params, step=4)
    clean, swapped = robustness.rows(tmp_path, str(folder), mesh, ("swapped_audio",), lambda _: None)
    assert len(swapped["reliance_ci95"]) == 2 and "follows_donor" not in swapped  # a whole has several donors
    assert clean["n"] == 4 and clean["war"] == together.row["war"] and clean["kept"] == 1
    assert clean["split_hash"] == together.row["split_hash"] and clean["split"] == "folds"
    chosen = config_of(folder, TENS, "select.by=test", "select.score=auc")
    watch = looks.make_watch(chosen, [looks.Watched(chosen, finetuning.partition_of(chosen))], tmp_path, mesh)
    looked = watch._measure(params)
    assert (looked["test_war"], looked["test_auc"]) == (together.row["war"], together.row["auc"])
    (tmp_path / "rows.json").write_text('[{"split_hash": "of other clips"}]')
    with pytest.raises(UserError, match="gives other clips or folds .* than .* was tested on"):
        robustness.rows(tmp_path / "checkpoints", str(folder), mesh, (), lambda _: None)


def test_a_run_of_all_folds_is_asked_of_all_their_clips_each_by_its_own_fold_s_weights(folder, tmp_path):
    mesh = make_mesh(load_config("finetune/recipe:demo").mesh)
    by_fold, alone = [], []
    for fold in ("0", "1"):
        config, workdir = config_of(folder, f"data.fold={fold}"), finetuning.fold_folder(tmp_path, fold)
        save_params(workdir, config, drawn(make_task(config), seed=int(fold))[1], step=3)
        partition = finetuning.partition_of(config)
        by_fold.append(finetuning.test(config, partition, workdir, mesh))
        alone.append(robustness.rows(workdir, str(folder), mesh, ("swapped_audio",), lambda _: None))
    together = finetuning.pooled(config, partition, by_fold)
    outcome_files.write(tmp_path, partition.target, together, "")
    robustness.check(tmp_path)
    clean, swapped = found = robustness.rows(tmp_path, str(folder), mesh, ("swapped_audio",), lambda _: None)
    for score in ("n", "speakers", "uar", "ci95", "auc", "fold", "step", "split_hash"):
        assert clean[score] == pytest.approx(together[0].row[score]) and clean["change"] == 0
    assert [rows[1]["fold"] for rows in alone] == ["0", "1"] and swapped["step"] is None
    assert swapped["donors"] == sum(rows[1]["donors"] for rows in alone)
    sizes = [rows[1]["n"] for rows in alone]
    for score in ("kept", "war"):
        each = [rows[1][score] for rows in alone]
        assert swapped[score] == pytest.approx(np.average(each, weights=sizes))
    assert "weights: last of each clip's own fold" in suite_tables.text({"robustness": found})
    shutil.rmtree(tmp_path / "fold_1")
    with pytest.raises(UserError, match="no usable checkpoint in .*fold_1"):
        robustness.check(tmp_path)


def test_a_look_at_clips_that_cannot_be_read_ends_a_run_that_is_chosen_by_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Viewer, "merged", lambda self, params, positions: (np.zeros(0, int), np.zeros((0, 2)))
    )
    mesh = make_mesh(load_config("finetune/recipe:demo").mesh)
    for chosen_by, says in (("test", "none of the 14 test clips can be read"), ("last", "")):
        config = config_of(
            folder, f"select.by={chosen_by}", "data.development=2" if not says else "data.fold=1"
        )
        watch = looks.make_watch(
            config, [looks.Watched(config, finetuning.partition_of(config))], tmp_path, mesh
        )
        with pytest.raises(UserError, match=says) if says else contextlib.nullcontext():
            watch._measure({})


def test_a_score_that_nothing_is_chosen_or_ended_by_may_be_undefined(folder, tmp_path):
    words = ("data.development=2", "select.score=ccc", "select.by=last")

    def watch(*more):
        config = config_of(folder, *words, *more)
        return looks.make_watch(
            config, [looks.Watched(config, finetuning.partition_of(config))], tmp_path, make_mesh(config.mesh)
        )

    assert watch()._told == [f"development_{name}" for name in ("uar", "war", "wf1")]
    for more in ("select.patience=2", "select.by=development"):
        with pytest.raises(UserError, match="select.score is 'ccc'.* has uar, war"):
            watch(more)


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        (("views.pool=(clip)",), "clip clip1.* has another target"),
        ((TENS, "data.stitch=mean"), "data.stitch joins values|set one of them"),
    ],
)
def test_what_cannot_be_pooled_is_said_before_anything_is_trained(folder, overrides, hint):
    with pytest.raises(UserError, match=hint):
        finetuning.partition_of(config_of(folder, *overrides))


def test_the_folder_of_a_fold_is_right_in_the_run_s_whatever_the_fold_is_called(tmp_path):
    folders = [finetuning.fold_folder(tmp_path, fold) for fold in ("1", "A é", "a/b", "a%2Fb", "../1", "..")]
    assert {folder.parent for folder in folders} == {tmp_path} and len(set(folders)) == len(folders)
    assert [folder.name for folder in folders[:2]] == ["fold_1", "fold_A é"]
    assert all(".." not in folder.parts for folder in folders)
