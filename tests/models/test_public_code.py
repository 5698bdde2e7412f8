"""`video_mae`, `audio_mae`, `cav_mae` and `av_mae` beside the public code of each.

The fixtures `tests/golden/*_public.npz` hold random weights under the public names, inputs, masks and what came out.
They were recorded on a CPU in float32 by importing the models from MCG-NJU/VideoMAE at 14ef8d8 (modeling_pretrain.py),
facebookresearch/AudioMAE at bd60e29 (models_mae.py, decoder_mode 0; of `audio_mae_window` 1) and YuanGongND/cav-mae at
68fe8c2 (models/cav_mae.py) with timm 0.4.5, at widths 16 and 8, two layers (CAV-MAE: two of each modality and a joint
one), every norm with ε = 1e-6, and 0.2 · N(0, 1) added to every parameter. Fixed positions were set to ours where
theirs are of another grid: AudioMAE's table is laid out for frequency × time while its tokens run over time ×
frequency, and CAV-MAE has one frame. Losses are those of each repository's own training code.

AudioMAE's local decoder has its sizes as constants, and its blocks in a file that the repository puts into timm: with
that file, of its 16 blocks the first three were taken, with two heads and for 8 × 8 tokens, behind one encoder layer,
without dropout. A temperature of the shifted block was set below the least that counts. Gradients are those of the
loss.

AV-MAE is google-research/scenic at 4a38d47 (projects/av_mae/vivit_multimodal.py, in Flax), with
`separate_encoders_and_concat` and `same_decoder`, one layer of each modality and two joint ones; the picture's key is
`RGB`, by which that commit knows it. Its input was normalised as ours is, its targets are pixels from 0 to 1 and the
log-mel, cut by its functions, and its masks those it drew. It has gradients of all parameters.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avemo_jax import frontend, masking, models
from avemo_jax.batch import Clip, Masks
from avemo_jax.config import load_config
from avemo_jax.models.params import flatten, merge, split, unflatten
from avemo_jax.tasks import make_task
from tests.golden_weights import GOLDEN

HEADS = 2
SIZES = (
    *("model.dim=16", f"model.heads={HEADS}", "model.decoder_dim=8", f"model.decoder_heads={HEADS}"),
    *("model.decoder_depth=2", "model.image_size=32", "dtype=float32", "mask.repeats=1"),
)


class Public:
    """A recorded state dict, and its pieces in our layouts."""

    def __init__(self, name):
        self.arrays = dict(np.load(GOLDEN / f"{name}_public.npz"))

    def __getitem__(self, key):
        return self.arrays[f"weight/{key}"]

    def linear(self, ours, theirs):
        found = {f"{ours}/kernel": self[f"{theirs}.weight"].T}
        bias = self.arrays.get(f"weight/{theirs}.bias")
        return found if bias is None else found | {f"{ours}/bias": bias}

    def norm(self, ours, *theirs):
        """One norm, or several as the ways through one."""
        scale, bias = ([self[f"{name}.{part}"] for name in theirs] for part in ("weight", "bias"))
        return {f"{ours}/scale": np.squeeze(np.stack(scale)), f"{ours}/bias": np.squeeze(np.stack(bias))}

    def blocks(self, ours, theirs, count, ways=("",)):
        layers = [self._block(f"{theirs}.{layer}", ways) for layer in range(count)]
        return {f"{ours}/{name}": np.stack([layer[name] for layer in layers]) for name in layers[0]}

    def windows(self, ours, theirs, count, kind="weight"):
        """Blocks of AudioMAE's local decoder, or with `kind` "grad" their gradients."""
        layers = [self._window_block(f"{kind}/{theirs}.{layer}") for layer in range(count)]
        return {f"{ours}/{name}": np.stack([layer[name] for layer in layers]) for name in layers[0]}

    def _window_block(self, key):
        def of(name):
            return self.arrays[f"{key}.{name}"]

        width = of("attn.proj.weight").shape[0]
        return {
            "attn/qkv": of("attn.qkv.weight").T.reshape(width, 3, HEADS, -1),
            "attn/qkv_bias": of("attn.qkv.bias").reshape(3, HEADS, -1),
            "attn/tau": of("attn.tau"),
            "attn/meta/fc1/kernel": of("attn.meta_mlp.fc1.weight").T,
            "attn/meta/fc1/bias": of("attn.meta_mlp.fc1.bias"),
            # Its bias adds the same to all logits of a head.
            "attn/meta/fc2/kernel": of("attn.meta_mlp.fc2.weight").T,
            "attn/out/kernel": of("attn.proj.weight").T.reshape(HEADS, -1, width),
            "attn/out/bias": of("attn.proj.bias"),
            "mlp/fc1/kernel": of("mlp.fc1.weight").T,
            "mlp/fc1/bias": of("mlp.fc1.bias"),
            "mlp/fc2/kernel": of("mlp.fc2.weight").T,
            "mlp/fc2/bias": of("mlp.fc2.bias"),
            **{
                f"norm{which}/{ours}": of(f"norm{which}.{theirs}")
                for which in (1, 2)
                for ours, theirs in (("scale", "weight"), ("bias", "bias"))
            },
        }

    def _block(self, key, ways):
        width = self[f"{key}.attn.qkv.weight"].shape[1]
        if f"weight/{key}.attn.q_bias" in self.arrays:
            biases = self[f"{key}.attn.q_bias"], self[f"{key}.attn.v_bias"]
        else:  # a key's bias adds the same to all logits of a query: it has no effect
            biases = self[f"{key}.attn.qkv.bias"].reshape(3, -1)[[0, 2]]
        out = self.linear("out", f"{key}.attn.proj")
        return {
            **self.norm("norm1", *(f"{key}.norm1{way}" for way in ways)),
            **self.norm("norm2", *(f"{key}.norm2{way}" for way in ways)),
            "attn/qkv": self[f"{key}.attn.qkv.weight"].T.reshape(width, 3, HEADS, -1),
            "attn/q_bias": biases[0].reshape(HEADS, -1),
            "attn/v_bias": biases[1].reshape(HEADS, -1),
            "attn/out/kernel": out["out/kernel"].reshape(HEADS, -1, width),
            "attn/out/bias": out["out/bias"],
            **self.linear("mlp/fc1", f"{key}.mlp.fc1"),
            **self.linear("mlp/fc2", f"{key}.mlp.fc2"),
        }


def computed(config, weights, clip, masks):
    """(task, outputs, targets) of our model with these parameters, all of which it must have in these shapes."""
    task = make_task(config)
    graphdef, shapes = split(jax.eval_shape(lambda: models.build(config, jax.random.key(0))))
    assert {path: leaf.shape for path, leaf in flatten(shapes).items()} == {
        path: array.shape for path, array in weights.items()
    }
    params = unflatten({path: jnp.asarray(array) for path, array in weights.items()})
    run = jax.jit(
        lambda p, clip, masks: (merge(graphdef, p)(clip, masks), task.targets(clip, masks)),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    return task, *run(params, clip, masks)


def loss_and_gradients(config, task, weights, clip, masks, targets):
    """(loss, gradient by path)"""
    graphdef, _ = split(jax.eval_shape(lambda: models.build(config, jax.random.key(0))))
    run = jax.jit(
        jax.value_and_grad(lambda p: task.score(merge(graphdef, p)(clip, masks), targets)[0]),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    loss, grads = run(unflatten({path: jnp.asarray(array) for path, array in weights.items()}))
    return float(loss), flatten(grads)


def near(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())


@pytest.mark.slow
def test_video_mae_is_the_public_one():
    public = Public("video_mae")
    config = load_config("video_mae:demo", [*SIZES, "model.depth=2", "model.frames=4"])
    patches = public["encoder.patch_embed.proj.weight"].transpose(2, 3, 4, 1, 0)
    weights = {
        "video/patch_embed/kernel": patches.reshape(-1, 16),
        "video/patch_embed/bias": public["encoder.patch_embed.proj.bias"],
        **public.blocks("trunk/video", "encoder.blocks", 2),
        **public.norm("norm/video", "encoder.norm"),
        **public.linear("decoders/video/embed/all", "encoder_to_decoder"),
        "decoders/video/mask_token/all": public["mask_token"][0, 0],
        **public.blocks("decoders/video/blocks", "decoder.blocks", 2),
        **public.norm("decoders/video/norm", "decoder.norm"),
        **public.linear("decoders/video/head/video", "decoder.head"),
    }
    clip = Clip(frontend.normalise_video(jnp.asarray(public.arrays["video"])), jnp.zeros((2, 256, 128)))
    masks = Masks(masking.from_boolean(public.arrays["mask_video"]), None)
    task, outputs, targets = computed(config, weights, clip, masks)
    near(outputs.video_prediction, public.arrays["prediction"])
    assert float(task.score(outputs, targets)[0]) == pytest.approx(float(public.arrays["loss"]), rel=2e-6)


def audio_mae(public, depth, decoder_blocks):
    """The weights of a recorded AudioMAE in our layouts, those of the decoder's blocks given."""
    return {
        "audio/patch_embed/kernel": public["patch_embed.proj.weight"].transpose(2, 3, 1, 0).reshape(-1, 16),
        "audio/patch_embed/bias": public["patch_embed.proj.bias"],
        "audio/registers": public["cls_token"][0],
        **public.blocks("trunk/audio", "blocks", depth),
        **public.norm("norm/audio", "norm"),
        **public.linear("decoders/audio/embed/all", "decoder_embed"),
        "decoders/audio/mask_token/all": public["mask_token"][0, 0],
        **decoder_blocks,
        **public.norm("decoders/audio/norm", "decoder_norm"),
        **public.linear("decoders/audio/head/audio", "decoder_pred"),
    }


@pytest.mark.slow
def test_audio_mae_with_a_global_decoder_is_the_public_one():
    public = Public("audio_mae")
    sizes = ("model.depth=2", "model.audio_frames=64", "model.mel_bins=32", "model.decoder_window=()")
    config = load_config("audio_mae:demo", [*SIZES, *sizes])
    weights = audio_mae(public, 2, public.blocks("decoders/audio/blocks", "decoder_blocks", 2))
    mask = public.arrays["mask_audio"]
    clip = Clip(jnp.zeros((2, 16, 32, 32, 3)), jnp.asarray(public.arrays["audio"]))
    masks = Masks(None, masking.from_boolean(mask))
    task, outputs, targets = computed(config, weights, clip, masks)
    near(outputs.audio_prediction, public.arrays["prediction"][mask].reshape(2, -1, 256))
    # They add 1e-6 to a patch's variance and we to its deviation.
    assert float(task.score(outputs, targets)[0]) == pytest.approx(float(public.arrays["loss"]), rel=1e-5)


@pytest.mark.slow
def test_audio_mae_with_its_local_decoder_is_the_public_one_and_has_its_gradients():
    public = Public("audio_mae_window")
    sizes = ("model.depth=1", "model.decoder_depth=3", "model.audio_frames=128", "model.mel_bins=128")
    config = load_config("audio_mae:demo", [*SIZES, *sizes])
    blocks = "decoders/audio/blocks"
    weights = audio_mae(public, 1, public.windows(blocks, "decoder_blocks", 3))
    clip = Clip(jnp.zeros((2, 16, 32, 32, 3)), jnp.asarray(public.arrays["audio"], jnp.float32))
    masks = Masks(None, masking.from_boolean(public.arrays["mask_audio"]))
    task, outputs, targets = computed(config, weights, clip, masks)
    near(outputs.audio_prediction, public.arrays["prediction"].reshape(2, -1, 256))

    loss, found = loss_and_gradients(config, task, weights, clip, masks, targets)
    assert loss == pytest.approx(float(public.arrays["loss"]), rel=1e-5)
    expected = public.windows(blocks, "decoder_blocks", 3, "grad") | {
        "decoders/audio/mask_token/all": public.arrays["grad/mask_token"][0, 0],
        "audio/registers": public.arrays["grad/cls_token"][0],
    }
    for path, grad in expected.items():
        np.testing.assert_allclose(found[path], grad, rtol=0, atol=1e-4 * np.abs(grad).max(), err_msg=path)


@pytest.mark.slow
def test_cav_mae_is_the_public_one():
    """Theirs takes one frame and ours tubelets of two: the second one is embedded with weights of zero, and its
    prediction is not compared. Sound is frequency × time there and time × frequency here."""
    public = Public("cav_mae")
    config = load_config(
        "cav_mae:demo",
        [*SIZES, "model.depth=2", "model.frames=2", "model.audio_frames=32", "model.mel_bins=128"],
    )
    picture = public["patch_embed_v.proj.weight"].transpose(2, 3, 1, 0).reshape(-1, 16)
    decoder = "decoders/video_audio"
    time_first = np.arange(256).reshape(16, 16).T.reshape(-1)  # of a patch's values
    twice = public.linear("head", "decoder_pred_v")
    sound = public.linear("head", "decoder_pred_a")
    weights = {
        "video/patch_embed/kernel": np.concatenate([picture, np.zeros_like(picture)]),
        "video/patch_embed/bias": public["patch_embed_v.proj.bias"],
        "video/modality_token": public["modality_v"][0, 0],
        "audio/patch_embed/kernel": public["patch_embed_a.proj.weight"].transpose(3, 2, 1, 0).reshape(-1, 16),
        "audio/patch_embed/bias": public["patch_embed_a.proj.bias"],
        "audio/modality_token": public["modality_a"][0, 0],
        **public.blocks("trunk/video", "blocks_v", 2),
        **public.blocks("trunk/audio", "blocks_a", 2),
        **public.blocks("joint", "blocks_u", 1, ("_v", "_a", "")),
        **public.norm("norm/video", "norm_v"),
        **public.norm("norm/audio", "norm_a"),
        **public.norm("joint_norm", "norm"),
        **public.linear(f"{decoder}/embed/all", "decoder_embed"),
        f"{decoder}/mask_token/all": public["mask_token"][0, 0],
        f"{decoder}/modality_token/video": public["decoder_modality_v"][0, 0],
        f"{decoder}/modality_token/audio": public["decoder_modality_a"][0, 0],
        **public.blocks(f"{decoder}/blocks", "decoder_blocks", 2),
        **public.norm(f"{decoder}/norm", "decoder_norm"),
        f"{decoder}/head/video/kernel": np.concatenate([twice["head/kernel"]] * 2, axis=1),
        f"{decoder}/head/video/bias": np.concatenate([twice["head/bias"]] * 2),
        f"{decoder}/head/audio/kernel": sound["head/kernel"][:, time_first],
        f"{decoder}/head/audio/bias": sound["head/bias"][time_first],
    }
    tokens = np.arange(16).reshape(8, 2).T.reshape(-1)  # theirs by our number
    mask_audio, mask_video = public.arrays["mask_audio"][:, tokens], public.arrays["mask_video"]
    frames = np.repeat(public.arrays["video"][:, None], 2, axis=1)
    clip = Clip(frontend.normalise_video(jnp.asarray(frames)), jnp.asarray(public.arrays["audio"]))
    masks = Masks(masking.from_boolean(mask_video), masking.from_boolean(mask_audio))
    task, outputs, targets = computed(config, weights, clip, masks)
    near(outputs.video_levels[0], public.arrays["video_level"])
    near(outputs.audio_levels[0], public.arrays["audio_level"])
    picture = public.arrays["prediction_video"][mask_video].reshape(2, -1, 768)
    near(outputs.video_prediction[..., :768], picture)
    sound = public.arrays["prediction_audio"][:, tokens][..., time_first][mask_audio].reshape(2, -1, 256)
    near(outputs.audio_prediction, sound)
    _, terms = task.score(outputs, targets)
    assert float(terms["loss_audio"]) == pytest.approx(float(public.arrays["loss_audio"]), rel=1e-5)
    assert float(terms["loss_contrast"]) == pytest.approx(float(public.arrays["loss_contrast"]), rel=1e-5)
    # Of the same frame twice the variance is divided by 1535 instead of 767 · 2: another 0.07 %.
    assert float(terms["loss_video"]) == pytest.approx(float(public.arrays["loss_video"]), rel=2e-3)


class Scenic:
    """A recorded tree of parameters, or with `kind` "grad" of gradients, and its pieces in our layouts."""

    def __init__(self, arrays, kind):
        self.arrays, self.kind = arrays, kind

    def __getitem__(self, key):
        return self.arrays[f"{self.kind}/{key}"]

    def pair(self, ours, theirs, name="kernel"):
        return {f"{ours}/{part}": self[f"{theirs}/{part}"] for part in (name, "bias")}

    def patches(self, ours, theirs):
        return {
            f"{ours}/bias": self[f"{theirs}/bias"],
            f"{ours}/kernel": self[f"{theirs}/kernel"].reshape(-1, 16),
        }

    def blocks(self, ours, theirs, count):
        layers = [self._block(f"{theirs}/encoderblock_{layer}") for layer in range(count)]
        return {f"{ours}/{name}": np.stack([layer[name] for layer in layers]) for name in layers[0]}

    def _block(self, key):
        attention = f"{key}/MultiHeadDotProductAttention_0"
        return {
            **self.pair("norm1", f"{key}/LayerNorm_0", "scale"),
            **self.pair("norm2", f"{key}/LayerNorm_1", "scale"),
            "attn/qkv": np.stack(
                [self[f"{attention}/{part}/kernel"] for part in ("query", "key", "value")], 1
            ),
            "attn/q_bias": self[f"{attention}/query/bias"],
            "attn/v_bias": self[f"{attention}/value/bias"],
            **self.pair("attn/out", f"{attention}/out"),
            **self.pair("mlp/fc1", f"{key}/MlpBlock_0/Dense_0"),
            **self.pair("mlp/fc2", f"{key}/MlpBlock_0/Dense_1"),
        }

    def all(self):
        both = {"video": "RGB", "audio": "spectrogram"}
        decoder = "decoders/video_audio"
        pieces = [
            self.blocks("joint", "Transformer_concat", 2),
            self.pair("joint_norm", "Transformer_concat/encoder_norm", "scale"),
            self.blocks(f"{decoder}/blocks", "Decoder", 2),
            self.pair(f"{decoder}/norm", "Decoder/encoder_norm", "scale"),
        ]
        for ours, theirs in both.items():
            pieces += [
                self.patches(f"{ours}/patch_embed", f"embedding_{theirs}"),
                self.blocks(f"trunk/{ours}", f"Transformer_{theirs}", 1),
                self.pair(f"norm/{ours}", f"Transformer_{theirs}/encoder_norm", "scale"),
                self.pair(f"{decoder}/embed/{ours}", f"decoder_projection_{theirs}"),
                {f"{decoder}/mask_token/{ours}": self[f"mask_token_{theirs}"][0, 0]},
                self.pair(f"{decoder}/head/{ours}", f"output_projection_{theirs}"),
            ]
        return {path: array for piece in pieces for path, array in piece.items()}


@pytest.mark.slow
def test_av_mae_is_the_public_one_and_has_its_gradients():
    arrays = dict(np.load(GOLDEN / "av_mae_public.npz"))
    sizes = ("model.depth=1", "model.frames=4", "model.audio_frames=64", "model.mel_bins=32")
    config = load_config("av_mae:demo", [*SIZES, *sizes])
    weights = Scenic(arrays, "weight").all()
    clip = Clip(frontend.normalise_video(jnp.asarray(arrays["video"])), jnp.asarray(arrays["audio"]))
    masks = Masks(*(masking.from_boolean(arrays[f"mask_{name}"]) for name in ("video", "audio")))
    task, outputs, targets = computed(config, weights, clip, masks)
    near(outputs.video_prediction, arrays["prediction_video"])
    near(outputs.audio_prediction, arrays["prediction_audio"])
    loss, grads = loss_and_gradients(config, task, weights, clip, masks, targets)
    assert loss == pytest.approx(float(arrays["loss"]), rel=2e-6)
    for path, grad in Scenic(arrays, "grad").all().items():
        np.testing.assert_allclose(grads[path], grad, rtol=0, atol=1e-4 * np.abs(grad).max(), err_msg=path)
