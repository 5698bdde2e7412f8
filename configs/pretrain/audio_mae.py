"""AudioMAE (Huang et al. 2022) on the sound alone: `audio_mae:SIZE`; docs/methods.md has what differs."""

from ml_collections import ConfigDict

from avemo_jax.config import demo_sized, parse_argument, stream_pretraining

# width, heads, encoder depth, decoder width, decoder heads
SIZES = {
    "demo": (192, 3, 6, 96, 3),
    "tiny": (256, 4, 10, 128, 2),
    "small": (384, 6, 12, 256, 8),
    "base": (768, 12, 12, 512, 16),
    "large": (1024, 16, 24, 512, 16),
    "huge": (1280, 16, 32, 512, 16),
}


def get_config(arg: str = "base") -> ConfigDict:
    size, _ = parse_argument(arg, SIZES, variants=())
    config = stream_pretraining("audio_mae", size, SIZES[size], modalities=("audio",))
    config.model.positions, config.model.registers = "grid", 1
    config.model.decoder_window = (4, 4)
    if size != "demo":
        config.model.decoder_depth = 16
    config.data.audio_gain = True
    config.optimizer.learning_rate, config.optimizer.weight_decay = 2e-4, 1e-4
    config.optimizer.weight_decay_end = 1e-4
    config.batch_size, config.epochs = 512, 33
    return demo_sized(config) if size == "demo" else config
