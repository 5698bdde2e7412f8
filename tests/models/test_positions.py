"""Position tables for clips of another size: against the formula, SciPy and PyTorch, and used by whole commands."""

import json
import math
from functools import partial

import jax
import numpy as np
import pytest
import torch
from ml_collections import ConfigDict
from scipy import ndimage

from avemo_jax import models
from avemo_jax.cli import main
from avemo_jax.config import load_config
from avemo_jax.convert import hicmae, torch_model
from avemo_jax.convert.verify import verify
from avemo_jax.errors import UserError
from avemo_jax.models.layers import position_table
from avemo_jax.models.params import split
from avemo_jax.models.positions import (
    RULES,
    Positions,
    audio_positions,
    in_words,
    resized,
    sizes_of,
    video_positions,
)
from avemo_jax.training.checkpoint_files import load_params, newest_config
from tests.convert.small_models import run_export
from tests.evaluation import synthetic
from tests.tasks.test_finetune_command import MODEL, SHORT

DIM = 24
CASES = [((8, 14, 14), (8, 10, 10)), ((26, 14, 12), (8, 10, 10)), ((64, 8), (16, 8)), ((5, 4), (9, 8))]


def formula(numbers, dim=DIM):
    """The sines and cosines of these token numbers, one by one."""
    rows = []
    for number in np.asarray(numbers, float).ravel():
        angles = [number / 10000 ** (2 * (j // 2) / dim) for j in range(dim)]
        rows.append([math.sin(a) if j % 2 == 0 else math.cos(a) for j, a in enumerate(angles)])
    return np.array(rows)


@pytest.mark.parametrize(("grid", "known"), CASES)
def test_a_regenerated_table_is_the_formula_over_the_new_numbers(grid, known):
    table = Positions("regenerated", grid, known).table(math.prod(grid), DIM)
    np.testing.assert_allclose(table, formula(np.arange(math.prod(grid))), atol=1e-6)


@pytest.mark.parametrize(("grid", "known"), CASES)
def test_an_interpolated_table_is_what_scipy_reads_between_the_known_places(grid, known):
    old = formula(np.arange(math.prod(known))).reshape(*known, DIM)
    places = np.meshgrid(
        *[(np.arange(size) + 0.5) * was / size - 0.5 for size, was in zip(grid, known, strict=True)],
        indexing="ij",
    )
    expected = np.stack(
        [ndimage.map_coordinates(old[..., j], places, order=1, mode="nearest") for j in range(DIM)], -1
    )
    table = Positions("interpolated", grid, known).table(math.prod(grid), DIM)
    np.testing.assert_allclose(table, expected.reshape(-1, DIM), atol=1e-6)


@pytest.mark.parametrize("known", [(8, 10, 10), (16, 8)])
def test_an_extended_table_keeps_what_was_known_and_goes_on_in_time_by_the_formula(known):
    longer = (known[0] * 3, *known[1:])
    table = Positions("extended", longer, known).table(math.prod(longer), DIM)
    np.testing.assert_array_equal(table[: math.prod(known)], position_table(math.prod(known), DIM))
    np.testing.assert_allclose(table, formula(np.arange(math.prod(longer))), atol=1e-6)


def test_an_extended_table_of_finer_frames_is_interpolated_within_each_frame_alone():
    grid, known = (11, 14, 14), (8, 10, 10)
    table = Positions("extended", grid, known).table(math.prod(grid), DIM).reshape(*grid, DIM)
    for time in (0, 10):
        numbers = time * 100 + np.arange(100)
        frame = torch.from_numpy(formula(numbers).reshape(1, 10, 10, DIM)).permute(0, 3, 1, 2)
        expected = torch.nn.functional.interpolate(frame, (14, 14), mode="bilinear")[0].permute(1, 2, 0)
        np.testing.assert_allclose(table[time], expected, atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("grid", "known"), CASES)
def test_the_pytorch_models_table_is_the_same(rule, grid, known):
    ours = Positions(rule, grid, known).table(math.prod(grid), DIM)
    theirs = torch_model.resized_table(torch.zeros(2, math.prod(grid), DIM), rule, list(grid), list(known))
    np.testing.assert_allclose(ours, theirs[0], atol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_at_the_size_of_the_training_all_rules_give_the_same_bits(rule):
    table = Positions(rule, (8, 10, 10), (8, 10, 10)).table(800, DIM)
    assert table.tobytes() == position_table(800, DIM).tobytes()


def model_of(**resizing):
    model = load_config("finetune/recipe:base").model.copy_and_resolve_references()
    with model.unlocked():
        model.resize_positions.update(resizing)
    return model


def test_three_seconds_to_ten_and_160_pixels_to_224():
    model = load_config("hicmae:base").model
    resized(model, {"image_size": 224, "audio_frames": 1008, "frames": 48}, "extended")
    video, audio = video_positions(model), audio_positions(model)
    assert (video.grid, video.known) == ((24, 14, 14), (8, 10, 10))
    assert (audio.grid, audio.known) == ((63, 8), (16, 8))
    assert in_words(model)["audio"] == {"rule": "extended", "grid": [63, 8], "known": [16, 8]}
    # Again, of what was resized: what the weights know stays.
    resized(model, {"image_size": 160}, "interpolated")
    assert video_positions(model).known == (8, 10, 10) and video_positions(model).grid == (24, 10, 10)


def test_a_model_of_the_size_of_its_weights_needs_no_words():
    assert in_words(model_of(video="extended", audio="interpolated")) == {}
    assert in_words(ConfigDict({"frames": 16, "image_size": 160, "audio_frames": 256, "mel_bins": 128})) == {}
    assert "video" in in_words(model_of(video="interpolated", image_size=96))


def test_models_of_one_config_are_the_same_to_the_compiler():
    build = partial(models.build, load_config("hicmae:demo", synthetic.TINY))
    one, other = (split(jax.eval_shape(build, jax.random.key(seed)))[0] for seed in range(2))
    assert one == other and hash(one) == hash(other)


def test_what_there_is_not_is_refused():
    with pytest.raises(UserError, match=r"resize_positions.video is 'stretched', not one of regenerated"):
        video_positions(model_of(video="stretched"))
    for text in ("size=3", "frames=x", "frames=0"):
        with pytest.raises(UserError, match="image_size=N"):
            sizes_of(text)
    with pytest.raises(UserError, match="a clip has 12"):
        Positions("interpolated", (4, 4), (2, 2)).table(12, DIM)
    streams = load_config("audio_mae:demo").model
    with pytest.raises(UserError, match="of this method they can only be regenerated"):
        resized(streams, {"audio_frames": 512}, "extended")
    resized(streams, {"audio_frames": 512}, "regenerated")
    assert streams.audio_frames == 512


@pytest.mark.slow
def test_a_checkpoint_of_one_size_is_finetuned_probed_and_handed_over_at_another(tmp_path, capsys):
    synthetic.write_folder(tmp_path / "data")
    synthetic.write_checkpoint(tmp_path / "run")
    known = {"frames": 4, "image_size": 32, "audio_frames": 64, "mel_bins": 128}
    words = [
        *MODEL, *SHORT, f"data.path={tmp_path / 'data'}", f"init.checkpoint={tmp_path / 'run'}",
        "data.label=shade", "data.classes=dark,bright", "model.classes=2", "total_steps=2",
        "model.image_size=48", "model.audio_frames=96", "model.resize_positions.video=interpolated",
        "model.resize_positions.audio=extended",
    ]  # fmt: skip
    line = ["finetune", "--config", "finetune/recipe:demo", "--workdir", str(tmp_path / "tuned")]
    assert main([*line, *(f"--config.{word}" for word in words)]) == 0
    said = capsys.readouterr().out
    assert "model.image_size=32, this run has 48: positions of video are interpolated" in said
    kept = newest_config(tmp_path / "tuned")["model"]["resize_positions"]
    assert kept == {**known, "video": "interpolated", "audio": "extended"}
    assert len(json.loads((tmp_path / "tuned" / "rows.json").read_text())) == 2
    # Begun again it is the same run.
    assert main([*line, *(f"--config.{word}" for word in words)]) == 0

    config, params, _ = load_params(tmp_path / "tuned")
    state = hicmae.to_reference(params)
    assert all(row.ok for row in verify(state, config, params))
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.model.resize_positions.video = "regenerated"
    assert not all(row.ok for row in verify_between(state, config, changed, params))
    assert run_export(tmp_path / "tuned", "huggingface", tmp_path / "folder", "--verify") == 0
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["positions"]["video"]["known"] == [
        2,
        2,
        2,
    ]

    flags = {"sizes": "image_size=48,audio_frames=96", "positions": "extended", "random_seeds": 0}
    rows = synthetic.probe_rows(tmp_path, tmp_path / "probe", "shade", **flags)
    assert rows[0]["sizes"] == flags["sizes"] and rows[0]["uar"] > 0.9
    features = ["features", "--checkpoint", tmp_path / "run", "--data", tmp_path / "data"]
    for name, more in {"own": [], "other": ["--sizes", flags["sizes"]]}.items():
        assert main([str(word) for word in (*features, "--out", tmp_path / f"{name}.npz", *more)]) == 0
    own, other = (np.load(tmp_path / f"{name}.npz")["cat4"] for name in ("own", "other"))
    assert own.shape == other.shape and not np.allclose(own, other, atol=1e-3)


def verify_between(state, config, changed, params):
    """The PyTorch model of one config against ours of another."""
    from avemo_jax.convert import verify as module

    right = module.torch_twin
    try:
        module.torch_twin = lambda _: right(changed)
        return verify(state, config, params)
    finally:
        module.torch_twin = right
