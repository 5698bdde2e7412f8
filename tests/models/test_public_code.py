"""`video_mae`, `audio_mae`, `cav_mae` and `av_mae` beside the public code of each.

The fixtures `tests/golden/*_public.npz` hold random weights under the public names, inputs, masks and what came out.
They were recorded on a CPU in float32 by importing the models from MCG-NJU/VideoMAE at 14ef8d8 (modeling_pretrain.py),
facebookresearch/AudioMAE at bd60e29 (models_mae.py, decoder_mode 0; of `audio_mae_window` 1) and YuanGongND/cav-mae at
68fe8c2 (models/cav_mae.py) with timm 0.4.5, at widths 16 and 8, two layers (CAV-MAE: two of each modality and a joint
one), every norm with ε = 1e-6, and 0.2 · N(0, 1) added to every parameter. Fixed positions were set to ours where
theirs are of another grid: AudioMAE's table is laid out for frequency × time while its tokens run over time ×
frequency, and CAV-MAE has one frame. Losses are those of each repository's own training code, and gradients those of
the loss, of all parameters but the kernels that a picture's patches go in and out by, which are large. Number of heads
apart, sizes are those of the arrays.

AudioMAE's local decoder has its sizes as constants, and its blocks in a file that the repository puts into timm: with
that file, of its 16 blocks the first three were taken, with two heads and for 8 × 8 tokens, behind one encoder layer,
without dropout. A temperature of the shifted block was set below the least that counts.

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

TIME_FIRST = np.arange(256).reshape(16, 16).T.reshape(-1)  # of a patch that is frequency × time, its values


def overrides(**sizes):
    return ["dtype=float32", "mask.repeats=1", *(f"model.{name}={value}" for name, value in sizes.items())]


def clip_sizes(arrays):
    """Of a clip as recorded; a single frame is shown twice."""
    found = {}
    if "video" in arrays:
        shape = arrays["video"].shape  # [B, T, H, W, 3] or [B, H, W, 3]
        found |= {"frames": shape[1] if len(shape) == 5 else 2, "image_size": shape[-2]}
    if "audio" in arrays:
        found |= dict(zip(("audio_frames", "mel_bins"), arrays["audio"].shape[1:], strict=True))
    return found


class Public:
    """A recorded state dict, or with `kind` "grad" its gradients, and its pieces in our layouts: those recorded."""

    def __init__(self, arrays, kind="weight"):
        self.arrays, self.kind = arrays, kind
        self.heads, self.decoder_heads = int(arrays["heads"]), int(arrays["decoder_heads"])

    def __getitem__(self, key):
        return self.arrays[f"{self.kind}/{key}"]

    def __contains__(self, key):
        return f"{self.kind}/{key}" in self.arrays

    def count(self, blocks):
        start = f"{self.kind}/{blocks}."
        return len({key[len(start) :].split(".")[0] for key in self.arrays if key.startswith(start)})

    def sizes(self, encoder, decoder):
        """Of a model whose encoder's and decoder's blocks have these names."""
        return {
            "dim": self[f"{encoder}.0.norm1.weight"].size,
            "heads": self.heads,
            "depth": self.count(encoder),
            "decoder_dim": self[f"{decoder}.0.norm1.weight"].size,
            "decoder_heads": self.decoder_heads,
            "decoder_depth": self.count(decoder),
            **clip_sizes(self.arrays),
        }

    def piece(self, ours, theirs, change=np.asarray):
        return {ours: change(self[theirs])} if theirs in self else {}

    def token(self, ours, theirs):
        return self.piece(ours, theirs, np.ravel)

    def patches(self, ours, theirs, axes):
        """Their kernel [out, in, …] with its axes in the order of our patches' values, and then [out]."""
        return {
            **self.piece(
                f"{ours}/kernel", f"{theirs}.weight", lambda x: x.transpose(*axes, 0).reshape(-1, len(x))
            ),
            **self.piece(f"{ours}/bias", f"{theirs}.bias"),
        }

    def linear(self, ours, theirs):
        return {
            **self.piece(f"{ours}/kernel", f"{theirs}.weight", np.transpose),
            **self.piece(f"{ours}/bias", f"{theirs}.bias"),
        }

    def norm(self, ours, *theirs):
        """One norm, or several as the ways through one."""
        scale, bias = ([self[f"{name}.{part}"] for name in theirs] for part in ("weight", "bias"))
        return {f"{ours}/scale": np.squeeze(np.stack(scale)), f"{ours}/bias": np.squeeze(np.stack(bias))}

    def blocks(self, ours, theirs, ways=("",)):
        layers = [self._block(f"{theirs}.{layer}", ways) for layer in range(self.count(theirs))]
        return {f"{ours}/{name}": np.stack([layer[name] for layer in layers]) for name in layers[0]}

    def _block(self, key, ways):
        heads = self.decoder_heads if key.startswith("decoder") else self.heads
        qkv, out = self[f"{key}.attn.qkv.weight"], self[f"{key}.attn.proj.weight"]
        found = {
            **self.norm("norm1", *(f"{key}.norm1{way}" for way in ways)),
            **self.norm("norm2", *(f"{key}.norm2{way}" for way in ways)),
            "attn/qkv": qkv.T.reshape(len(out), 3, heads, -1),
            "attn/out/kernel": out.T.reshape(heads, -1, len(out)),
            "attn/out/bias": self[f"{key}.attn.proj.bias"],
            **self.linear("mlp/fc1", f"{key}.mlp.fc1"),
            **self.linear("mlp/fc2", f"{key}.mlp.fc2"),
        }
        if f"{key}.attn.tau" in self:  # AudioMAE's local decoder
            meta = f"{key}.attn.meta_mlp"
            return found | {
                "attn/qkv_bias": self[f"{key}.attn.qkv.bias"].reshape(3, heads, -1),
                "attn/tau": self[f"{key}.attn.tau"],
                **self.linear("attn/meta/fc1", f"{meta}.fc1"),
                # Its bias adds the same to all logits of a head.
                "attn/meta/fc2/kernel": self[f"{meta}.fc2.weight"].T,
            }
        if f"{key}.attn.q_bias" in self:
            biases = self[f"{key}.attn.q_bias"], self[f"{key}.attn.v_bias"]
        else:  # a key's bias adds the same to all logits of a query: it has no effect
            biases = self[f"{key}.attn.qkv.bias"].reshape(3, -1)[[0, 2]]
        return found | {
            "attn/q_bias": biases[0].reshape(heads, -1),
            "attn/v_bias": biases[1].reshape(heads, -1),
        }


def recorded(name):
    return dict(np.load(GOLDEN / f"{name}_public.npz"))


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


def are_gradients(found, expected):
    assert expected.keys() <= found.keys()
    for path, grad in expected.items():
        np.testing.assert_allclose(found[path], grad, rtol=0, atol=1e-4 * np.abs(grad).max(), err_msg=path)


def masks_of(arrays):
    return Masks(
        *(
            masking.from_boolean(arrays[key]) if key in arrays else None
            for key in ("mask_video", "mask_audio")
        )
    )


def hidden(prediction, mask):
    """Of [B, N, P] those of the hidden tokens."""
    return prediction[mask].reshape(len(mask), -1, prediction.shape[-1])


def video_mae(public):
    return {
        **public.patches("video/patch_embed", "encoder.patch_embed.proj", (2, 3, 4, 1)),
        **public.blocks("trunk/video", "encoder.blocks"),
        **public.norm("norm/video", "encoder.norm"),
        **public.linear("decoders/video/embed/all", "encoder_to_decoder"),
        **public.token("decoders/video/mask_token/all", "mask_token"),
        **public.blocks("decoders/video/blocks", "decoder.blocks"),
        **public.norm("decoders/video/norm", "decoder.norm"),
        **public.linear("decoders/video/head/video", "decoder.head"),
    }


@pytest.mark.slow
def test_video_mae_is_the_public_one_and_has_its_gradients():
    arrays = recorded("video_mae")
    public = Public(arrays)
    config = load_config("video_mae:demo", overrides(**public.sizes("encoder.blocks", "decoder.blocks")))
    weights = video_mae(public)
    video = frontend.normalise_video(jnp.asarray(arrays["video"]))
    clip, masks = Clip(video, jnp.zeros((len(video), 256, 128))), masks_of(arrays)
    task, outputs, targets = computed(config, weights, clip, masks)
    near(outputs.video_prediction, arrays["prediction"])
    loss, grads = loss_and_gradients(config, task, weights, clip, masks, targets)
    assert loss == pytest.approx(float(arrays["loss"]), rel=2e-6)
    are_gradients(grads, video_mae(Public(arrays, "grad")))


def audio_mae(public):
    return {
        **public.patches("audio/patch_embed", "patch_embed.proj", (2, 3, 1)),
        **public.piece("audio/registers", "cls_token", lambda x: x[0]),
        **public.blocks("trunk/audio", "blocks"),
        **public.norm("norm/audio", "norm"),
        **public.linear("decoders/audio/embed/all", "decoder_embed"),
        **public.token("decoders/audio/mask_token/all", "mask_token"),
        **public.blocks("decoders/audio/blocks", "decoder_blocks"),
        **public.norm("decoders/audio/norm", "decoder_norm"),
        **public.linear("decoders/audio/head/audio", "decoder_pred"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name, window", [("audio_mae", "()"), ("audio_mae_window", "(4,4)")])
def test_audio_mae_with_either_decoder_is_the_public_one_and_has_its_gradients(name, window):
    arrays = recorded(name)
    public = Public(arrays)
    sizes = public.sizes("blocks", "decoder_blocks")
    config = load_config("audio_mae:demo", overrides(**sizes, decoder_window=window))
    weights = audio_mae(public)
    audio = jnp.asarray(arrays["audio"], jnp.float32)
    clip, masks = Clip(jnp.zeros((len(audio), 16, 32, 32, 3)), audio), masks_of(arrays)
    task, outputs, targets = computed(config, weights, clip, masks)
    near(outputs.audio_prediction, arrays["prediction"])
    loss, grads = loss_and_gradients(config, task, weights, clip, masks, targets)
    # They add 1e-6 to a patch's variance and we to its deviation.
    assert loss == pytest.approx(float(arrays["loss"]), rel=1e-5)
    are_gradients(grads, audio_mae(Public(arrays, "grad")))


def cav_mae(public):
    """Theirs takes one frame and ours tubelets of two, here the same one twice: with weights of zero for the second,
    and predicted twice, so that each prediction has half of its gradient. A sound's patches are frequency × time there
    and time × frequency here."""
    decoder = "decoders/video_audio"
    found = {
        **public.patches("video/patch_embed", "patch_embed_v.proj", (2, 3, 1)),
        **public.token("video/modality_token", "modality_v"),
        **public.patches("audio/patch_embed", "patch_embed_a.proj", (3, 2, 1)),
        **public.token("audio/modality_token", "modality_a"),
        **public.blocks("trunk/video", "blocks_v"),
        **public.blocks("trunk/audio", "blocks_a"),
        **public.blocks("joint", "blocks_u", ("_v", "_a", "")),
        **public.norm("norm/video", "norm_v"),
        **public.norm("norm/audio", "norm_a"),
        **public.norm("joint_norm", "norm"),
        **public.linear(f"{decoder}/embed/all", "decoder_embed"),
        **public.token(f"{decoder}/mask_token/all", "mask_token"),
        **public.token(f"{decoder}/modality_token/video", "decoder_modality_v"),
        **public.token(f"{decoder}/modality_token/audio", "decoder_modality_a"),
        **public.blocks(f"{decoder}/blocks", "decoder_blocks"),
        **public.norm(f"{decoder}/norm", "decoder_norm"),
        **public.linear(f"{decoder}/head/video", "decoder_pred_v"),
        **public.linear(f"{decoder}/head/audio", "decoder_pred_a"),
    }
    weights = public.kind == "weight"
    for path, array in found.items():
        if path.startswith(f"{decoder}/head/audio"):
            found[path] = array[..., TIME_FIRST]
        elif path.startswith(f"{decoder}/head/video"):
            found[path] = np.concatenate([array, array], -1) / (1 if weights else 2)
        elif path == "video/patch_embed/kernel":
            found[path] = np.concatenate([array, np.zeros_like(array) if weights else array])
    return found


@pytest.mark.slow
def test_cav_mae_is_the_public_one_and_has_its_gradients():
    arrays = recorded("cav_mae")
    public = Public(arrays)
    sizes = public.sizes("blocks_v", "decoder_blocks") | {"joint_depth": public.count("blocks_u")}
    config = load_config("cav_mae:demo", overrides(**sizes))
    weights = cav_mae(public)
    grid = sizes["mel_bins"] // 16, sizes["audio_frames"] // 16
    tokens = np.arange(np.prod(grid)).reshape(grid).T.reshape(-1)  # theirs by our number
    frames = np.repeat(arrays["video"][:, None], 2, axis=1)
    clip = Clip(frontend.normalise_video(jnp.asarray(frames)), jnp.asarray(arrays["audio"]))
    masks = masks_of(arrays | {"mask_audio": arrays["mask_audio"][:, tokens]})
    task, outputs, targets = computed(config, weights, clip, masks)
    near(outputs.video_levels[0], arrays["video_level"])
    near(outputs.audio_levels[0], arrays["audio_level"])
    picture = hidden(arrays["prediction_video"], arrays["mask_video"])
    near(outputs.video_prediction, np.concatenate([picture, picture], -1))
    sound = arrays["prediction_audio"][:, tokens][..., TIME_FIRST]
    near(outputs.audio_prediction, hidden(sound, arrays["mask_audio"][:, tokens]))
    # Theirs are standardised over one frame's values, ours over the same twice, whose unbiased deviation is less.
    count = targets.video.shape[-1]
    targets = targets._replace(video=targets.video * np.sqrt((count - 2) / (count - 1)))
    _, terms = task.score(outputs, targets)
    for name in ("loss_audio", "loss_video", "loss_contrast"):
        assert float(terms[name]) == pytest.approx(float(arrays[name]), rel=1e-5)
    loss, grads = loss_and_gradients(config, task, weights, clip, masks, targets)
    assert loss == pytest.approx(float(arrays["loss"]), rel=1e-5)
    are_gradients(grads, cav_mae(Public(arrays, "grad")))


class Scenic:
    """A recorded tree of parameters, or with `kind` "grad" of gradients, and its pieces in our layouts."""

    def __init__(self, arrays, kind):
        self.arrays, self.kind = arrays, kind

    def __getitem__(self, key):
        return self.arrays[f"{self.kind}/{key}"]

    def pair(self, ours, theirs, name="kernel"):
        return {f"{ours}/{part}": self[f"{theirs}/{part}"] for part in (name, "bias")}

    def patches(self, ours, theirs):
        bias = self[f"{theirs}/bias"]
        return {f"{ours}/bias": bias, f"{ours}/kernel": self[f"{theirs}/kernel"].reshape(-1, len(bias))}

    def count(self, blocks):
        return sum(key.startswith(f"{self.kind}/{blocks}/") and "LayerNorm_0/s" in key for key in self.arrays)

    def sizes(self):
        found = {"depth": self.count("Transformer_RGB"), "joint_depth": self.count("Transformer_concat")}
        found["decoder_depth"] = self.count("Decoder")
        for ours, theirs in (("", "Transformer_RGB"), ("decoder_", "Decoder")):
            query = self[f"{theirs}/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel"]
            found |= dict(zip((f"{ours}dim", f"{ours}heads"), query.shape[:2], strict=True))
        return found | clip_sizes(self.arrays)

    def blocks(self, ours, theirs):
        layers = [self._block(f"{theirs}/encoderblock_{layer}") for layer in range(self.count(theirs))]
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
            self.blocks("joint", "Transformer_concat"),
            self.pair("joint_norm", "Transformer_concat/encoder_norm", "scale"),
            self.blocks(f"{decoder}/blocks", "Decoder"),
            self.pair(f"{decoder}/norm", "Decoder/encoder_norm", "scale"),
        ]
        for ours, theirs in both.items():
            pieces += [
                self.patches(f"{ours}/patch_embed", f"embedding_{theirs}"),
                self.blocks(f"trunk/{ours}", f"Transformer_{theirs}"),
                self.pair(f"norm/{ours}", f"Transformer_{theirs}/encoder_norm", "scale"),
                self.pair(f"{decoder}/embed/{ours}", f"decoder_projection_{theirs}"),
                {f"{decoder}/mask_token/{ours}": self[f"mask_token_{theirs}"][0, 0]},
                self.pair(f"{decoder}/head/{ours}", f"output_projection_{theirs}"),
            ]
        return {path: array for piece in pieces for path, array in piece.items()}


@pytest.mark.slow
def test_av_mae_is_the_public_one_and_has_its_gradients():
    arrays = recorded("av_mae")
    public = Scenic(arrays, "weight")
    config = load_config("av_mae:demo", overrides(**public.sizes()))
    weights = public.all()
    clip = Clip(frontend.normalise_video(jnp.asarray(arrays["video"])), jnp.asarray(arrays["audio"]))
    masks = masks_of(arrays)
    task, outputs, targets = computed(config, weights, clip, masks)
    near(outputs.video_prediction, arrays["prediction_video"])
    near(outputs.audio_prediction, arrays["prediction_audio"])
    loss, grads = loss_and_gradients(config, task, weights, clip, masks, targets)
    assert loss == pytest.approx(float(arrays["loss"]), rel=2e-6)
    are_gradients(grads, Scenic(arrays, "grad").all())
