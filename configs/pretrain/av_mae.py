"""AV-MAE (Georgescu et al. 2023, scenic): `av_mae:SIZE`; docs/methods.md has what differs."""

from ml_collections import ConfigDict

from avemo_jax.config import demo_sized, parse_argument, stream_pretraining

# width, heads, encoder depth, decoder width, decoder heads; the last two layers of the depth are joint ones
SIZES = {
    "demo": (192, 3, 6, 96, 3),
    "tiny": (192, 3, 12, 96, 3),
    "small": (384, 6, 12, 192, 3),
    "base": (768, 12, 12, 384, 6),
    "large": (1024, 16, 24, 512, 8),
    "huge": (1280, 16, 32, 640, 8),
}


def get_config(arg: str = "large") -> ConfigDict:
    size, _ = parse_argument(arg, SIZES, variants=())
    config = stream_pretraining("av_mae", size, SIZES[size], joint_depth=2)
    config.model.decoder, config.model.decoder_own_entry = "shared", True
    config.model.gelu = "tanh"
    config.mask.video, config.mask.audio_ratio = "random", 0.7
    config.target.update(
        normalize_video=False,
        normalize_audio=False,
        frame_difference=False,
        video_weight=0.5,
        audio_weight=0.5,
    )
    config.optimizer.min_learning_rate = 0.0
    config.optimizer.warmup_share = 4 / 120
    config.batch_size, config.epochs = 512, 120
    return demo_sized(config) if size == "demo" else config
