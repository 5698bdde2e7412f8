"""Joint-embedding prediction within and across modalities, after MJEPA (2026): `mjepa:SIZE`.

Its details are unpublished: docs/methods.md says what is ours.
"""

from ml_collections import ConfigDict

from avemo_jax.config import demo_sized, parse_argument, stream_pretraining

# width, heads, encoder depth, predictor width, predictor heads
SIZES = {
    "demo": (192, 3, 6, 96, 3),
    "tiny": (256, 4, 10, 128, 4),
    "small": (384, 6, 12, 192, 6),
    "base": (768, 12, 12, 384, 12),
    "large": (1024, 16, 24, 384, 12),
    "huge": (1280, 16, 32, 384, 12),
}
_OF_AUTOENCODERS = (
    *("decoder", "decoder_window", "decoder_own_entry", "decoder_embed_bias", "decoder_modality_tokens"),
    *("contrast_layers", "learned_temperature", "learned_bias"),
)


def get_config(arg: str = "large") -> ConfigDict:
    size, _ = parse_argument(arg, SIZES, variants=())
    config = stream_pretraining("mjepa", size, SIZES[size])
    model = config.model
    config.assembly = "jepa"
    for key in _OF_AUTOENCODERS:
        del model[key]
    model.update(weights="shared", modality_tokens=True, positions="grid", teacher_layers=1, crosses=True)
    if size != "demo":
        model.decoder_depth = 12
    config.mask.update(video="blocks", audio="blocks", video_ratio=0.75, audio_ratio=0.6)
    config.target.update(kind="latents", error="l1", frame_difference=False)
    config.ema.decay = 0.99925
    config.optimizer.update(learning_rate=3e-4, weight_decay=0.04, weight_decay_end=0.04)
    config.data.audio_gain = True
    config.batch_size, config.epochs = 512, 100
    return demo_sized(config) if size == "demo" else config
