"""VAEmo's first stage (Cheng et al. 2025): `vaemo:SIZE`.

Its code was not released: docs/methods.md says what is ours.
"""

from ml_collections import ConfigDict

from avemo_jax.config import demo_sized, parse_argument, stream_pretraining

# width, heads, encoder depth, decoder width, decoder heads; the last two layers of the depth are joint ones
SIZES = {
    "demo": (192, 3, 6, 96, 3),
    "tiny": (256, 4, 12, 128, 2),
    "small": (384, 6, 12, 192, 3),
    "base": (512, 8, 12, 384, 6),
    "large": (768, 12, 14, 384, 6),
    "huge": (1280, 20, 14, 512, 8),
}


def get_config(arg: str = "base") -> ConfigDict:
    size, _ = parse_argument(arg, SIZES, variants=())
    config = stream_pretraining("vaemo", size, SIZES[size], joint_depth=2)
    model = config.model
    model.weights, model.decoder, model.decoder_modality_tokens = "shared", "joint", True
    model.modality_tokens = model.joint_alone = True
    config.contrast.weight = 0.0025
    config.data.audio_gain = True
    config.batch_size, config.epochs = 160, 100
    return demo_sized(config) if size == "demo" else config
