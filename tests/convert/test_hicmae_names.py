"""Names, shapes and bits of the reference's state dicts, there and back, for all its registered sizes."""

import functools
import json

import jax
import numpy as np
import pytest

from avemo_jax import models
from avemo_jax.config import load_config
from avemo_jax.convert import hicmae
from avemo_jax.errors import UserError
from avemo_jax.models.params import flatten, split
from tests.golden_weights import GOLDEN, golden_weights, registered_shapes

REGISTERED = {
    "pretrain_dim384": "hicmae:small",
    "pretrain_dim512": "hicmae:base",
    "finetune_dim256": "finetune/crema_d:tiny",
    "finetune_dim384": "finetune/crema_d:small",
    "finetune_dim512": "finetune/crema_d:base",
}


@functools.cache
def expected_params(config_name, *overrides):
    """Shapes of our parameters; nothing is allocated."""
    config = load_config(config_name, overrides)
    return jax.eval_shape(lambda: split(models.build(config, jax.random.key(0)))[1])


@pytest.fixture(scope="module")
def demo():
    """A small pretraining model: its parameters' shapes and weights under the reference's names."""
    expected = expected_params("hicmae:demo", "model.dim=12", "model.decoder_dim=6")
    return expected, golden_weights(hicmae.reference_shapes(expected), "demo:")


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("table", REGISTERED)
def test_names_shapes_and_order_are_those_of_the_registered_model(table):
    ours = hicmae.reference_shapes(expected_params(REGISTERED[table]))
    assert list(ours.items()) == list(registered_shapes(table).items())


@pytest.mark.parametrize("table", REGISTERED)
def test_import_then_export_gives_back_every_bit(table):
    state = golden_weights(registered_shapes(table), f"{table}:")
    params = hicmae.from_reference(state, expected_params(REGISTERED[table]), table)
    back = hicmae.to_reference(params)
    assert list(back) == list(state)
    assert [name for name in state if not same_bits(back[name], state[name])] == []


def test_special_bit_patterns_survive(demo):
    expected, state = demo
    odd = state["encoder.norm.weight"].copy()
    odd[:4] = np.array([0x7FC00123, 0xFF800000, 0x80000000, 0x00000001], np.uint32).view(np.float32)
    state = state | {"encoder.norm.weight": odd}
    assert same_bits(
        hicmae.to_reference(hicmae.from_reference(state, expected, "demo"))["encoder.norm.weight"], odd
    )


def test_no_two_rows_share_a_name_and_every_parameter_of_both_models_has_a_row():
    keys = [row.key for row in hicmae.TABLE]
    paths = [row.path for row in hicmae.TABLE]
    assert len(set(keys)) == len(keys) and len(set(paths)) == len(paths)
    ours = {*flatten(expected_params("hicmae:base")), *flatten(expected_params("finetune/crema_d:base"))}
    layer_scale = {path for path in paths if path.split("/")[-1].startswith("gamma")}
    assert ours == set(paths) - layer_scale


def test_decoder_layer_0_stands_alone_and_the_rest_are_counted_from_1(demo):
    expected, state = demo
    params = hicmae.from_reference(state, expected, "demo")["video_decoder"]
    assert np.array_equal(params["first_block"]["norm1"]["scale"], state["decoder.blocks.0.norm1.weight"])
    for layer in range(3):
        scale = state[f"decoder.blocks.{layer + 1}.cross_norm2.weight"]
        assert np.array_equal(params["blocks"]["context_norm"]["scale"][layer], scale)


def test_other_depths_heads_and_a_decoder_of_one_block_convert_too():
    sizes = ("model.depth=3", "model.fusion_depth=1", "model.dim=20", "model.heads=5", "model.decoder_dim=6")
    expected = expected_params("hicmae:demo", *sizes, "model.decoder_depth=1", "model.skip_layers=()")
    state = golden_weights(hicmae.reference_shapes(expected), "odd:")
    assert "decoder.blocks.0.norm1.weight" in state and "decoder.blocks.1.norm1.weight" not in state
    back = hicmae.to_reference(hicmae.from_reference(state, expected, "demo"))
    assert all(same_bits(back[name], state[name]) for name in state)


def test_layer_scale_comes_first_in_its_block_and_biases_may_be_absent():
    width, layers = 4, 2
    block = {
        "gamma_0": np.zeros((layers, width)),
        "gamma_1": np.zeros((layers, width)),
        "cross_attn": {"q": np.zeros((layers, width, 2, 2))},
        "norm1": {"scale": np.ones((layers, width))},
    }
    names = list(hicmae.to_reference({"fusion": {"video_blocks": block}}))
    prefix = "encoder_fusion.blocks"
    assert names[:4] == [
        f"{prefix}.0.{name}" for name in ("gamma_0", "gamma_1", "cross_attn.q.weight", "norm1.weight")
    ]
    assert names[4] == f"{prefix}.1.gamma_0"


def test_missing_left_over_and_differing_tensors_are_all_listed_in_one_line(demo):
    expected, state = demo
    state = dict(state)
    del state["encoder.norm.weight"], state["mask_token"]
    state["encoder.pos_embed"] = np.zeros((1, 8, 12), np.float32)
    state["decoder.head.bias"] = np.zeros(7, np.float32)
    with pytest.raises(UserError) as caught:
        hicmae.from_reference(state, expected, "best.pth")
    text = str(caught.value)
    assert "\n" not in text and text.startswith("best.pth: weights that do not fit the config")
    assert "2 missing (mask_token, encoder.norm.weight)" in text
    assert "1 left over (encoder.pos_embed)" in text
    assert "1 of another shape (decoder.head.bias [7] for [1536])" in text


def test_a_long_list_of_differences_names_the_first_and_counts_the_rest(demo):
    expected, state = demo
    narrow = {name: array[..., :2] for name, array in state.items()}
    with pytest.raises(UserError, match=r"… and \d+ more\)") as caught:
        hicmae.from_reference(narrow, expected, "demo")
    assert len(str(caught.value)) < 700


def test_a_transposed_matrix_of_the_right_size_is_not_taken(demo):
    expected, state = demo
    name = "encoder.blocks.0.mlp.fc1.weight"
    with pytest.raises(UserError, match=name):
        hicmae.from_reference(state | {name: state[name].T.copy()}, expected, "demo")


def test_parameters_of_another_model_are_refused():
    with pytest.raises(UserError, match="text/embed"):
        hicmae.to_reference({"text": {"embed": np.zeros(3)}})


def test_fine_tuning_takes_over_the_364_tensors_that_the_reference_takes_over():
    recorded = json.loads((GOLDEN / "keys_pretrain_to_finetune_dim512.json").read_text())
    pretrain, finetune = registered_shapes("pretrain_dim512"), registered_shapes("finetune_dim512")
    assert list(hicmae.shared_keys(finetune)) == list(hicmae.shared_keys(pretrain)) == recorded["common"]
    assert [name for name in finetune if name not in recorded["common"]] == recorded["only_in_finetune"]
    expected = hicmae.shared_part(expected_params("finetune/crema_d:base"))
    assert list(hicmae.reference_shapes(expected)) == recorded["common"]


def test_the_two_models_are_told_apart_by_their_names():
    assert hicmae.task_of(registered_shapes("pretrain_dim384")) == "pretrain"
    assert hicmae.task_of(registered_shapes("finetune_dim384")) == "finetune"
    assert hicmae.task_of({"conv1.weight": None}) is None


def test_what_is_learned_about_comparing_stays_here_and_cannot_come_from_there(demo):
    _, state = demo
    small = ("model.dim=12", "model.decoder_dim=6", "model.learned_temperature=0.1")
    learned = expected_params("hicmae:demo", *small)
    assert "contrast_scale/scale" in flatten(learned)
    assert hicmae.reference_shapes(learned) == {key: array.shape for key, array in state.items()}
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), learned)
    assert list(hicmae.to_reference(zeros)) == list(state)
    with pytest.raises(UserError, match="contrast_scale"):
        hicmae.from_reference(state, learned, "demo")


def test_a_decoder_that_pytorch_does_not_have_is_refused():
    with pytest.raises(UserError, match=r"model\.decoder_skips=False: fine-tune it first"):
        hicmae.check_method(load_config("hicmae:demo", ("model.decoder_skips=False",)))
