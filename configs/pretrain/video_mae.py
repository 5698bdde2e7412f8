"""VideoMAE (Tong et al. 2022) on the picture alone: `video_mae:SIZE`; docs/methods.md has what differs."""

from ml_collections import ConfigDict

from avemo_jax.config import demo_sized, parse_argument, stream_pretraining

# width, heads, encoder depth, decoder width, decoder heads
SIZES = {
    "demo": (192, 3, 6, 96, 3),
    "tiny": (256, 4, 10, 128, 2),
    "small": (384, 6, 12, 192, 3),
    "base": (768, 12, 12, 384, 6),
    "large": (1024, 16, 24, 512, 8),
    "huge": (1280, 16, 32, 640, 8),
}
SCHEDULES = {"small": (1600, 1024), "large": (1600, 512), "huge": (1600, 1024)}  # epochs, clips in a batch


def get_config(arg: str = "base") -> ConfigDict:
    size, _ = parse_argument(arg, SIZES, variants=())
    config = stream_pretraining("video_mae", size, SIZES[size], modalities=("video",))
    config.model.decoder_embed_bias = False
    if size in ("large", "huge"):
        config.model.decoder_depth = 12
    config.target.frame_difference = False
    config.optimizer.learning_rate = 1.5e-4
    config.epochs, config.batch_size = SCHEDULES.get(size, (800, 2048))
    config.optimizer.warmup_share = 40 / config.epochs
    return demo_sized(config) if size == "demo" else config
