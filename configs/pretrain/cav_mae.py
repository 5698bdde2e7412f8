"""CAV-MAE (Gong et al. 2023): `cav_mae:SIZE`; docs/methods.md has what differs."""

from ml_collections import ConfigDict

from avemo_jax.config import demo_sized, parse_argument, stream_pretraining

# width, heads, encoder depth, decoder width, decoder heads; the last layer of the depth is joint
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
    config = stream_pretraining("cav_mae", size, SIZES[size], joint_depth=1)
    model = config.model
    model.joint_alone = model.joint_norms = model.modality_tokens = True
    model.positions = "grid"
    model.decoder, model.decoder_modality_tokens = "joint", True
    if size != "demo":
        model.decoder_depth = 8
    config.mask.video, config.mask.video_ratio, config.mask.audio_ratio = "random", 0.75, 0.75
    config.target.update(standardize_video=True, per_colour=False, frame_difference=False)
    config.contrast.update(weight=0.01, direction="forward", temperature=0.05)
    config.optimizer.update(b1=0.95, b2=0.999, weight_decay=5e-7, weight_decay_end=5e-7, learning_rate=2e-4)
    config.batch_size, config.epochs = 256, 25
    return demo_sized(config) if size == "demo" else config
