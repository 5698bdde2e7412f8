"""HiCMAE pretraining (Sun et al. 2024): `hicmae:SIZE`, or `hicmae:SIZE,reference`.

Sizes: demo, tiny, small, base, large, huge. `reference` repeats what the PyTorch reference does where the
default here is what was meant (docs/oddities.md).
"""

from ml_collections import ConfigDict

from avemo_jax.config import (
    demo_sized,
    learned_contrast,
    parse_argument,
    pretrain_defaults,
    resize_positions,
    run_defaults,
)

# width, heads, encoder depth, decoder width, decoder heads, encoder layers with contrast and skips
SIZES = {
    "demo": (192, 3, 6, 96, 3, (1, 3, 5)),
    "tiny": (256, 4, 10, 128, 2, (3, 6, 9)),
    "small": (384, 6, 10, 192, 3, (3, 6, 9)),
    "base": (512, 8, 10, 384, 6, (3, 6, 9)),
    "large": (768, 12, 12, 384, 6, (3, 7, 11)),
    "huge": (1280, 20, 12, 512, 8, (3, 7, 11)),
}


def get_config(arg: str = "base") -> ConfigDict:
    size, reference = parse_argument(arg, SIZES, variants=("reference",))
    dim, heads, depth, decoder_dim, decoder_heads, skip_layers = SIZES[size]
    config = run_defaults()
    config.task, config.method, config.size = "pretrain", "hicmae", size
    config.batch_size, config.epochs = 160, 100
    config.model = ConfigDict(
        {
            "dim": dim,
            "heads": heads,
            "depth": depth,
            "fusion_depth": 2,
            "decoder_dim": decoder_dim,
            "decoder_heads": decoder_heads,
            "decoder_depth": 4,
            "skip_layers": skip_layers,
            "decoder_skips": True,  # False: the decoder does not look at these layers, they are only contrasted
            **learned_contrast(),
            "drop_path": 0.0,
            "frames": 16,
            "image_size": 160,
            "audio_frames": 256,
            "mel_bins": 128,
            "resize_positions": resize_positions(),
        }
    )
    config.update(pretrain_defaults())
    config.data.crop, config.data.audio_gain = "multi_scale", True
    if size == "demo":
        demo_sized(config)
    if reference:
        config.contrast.negatives = "local"
        config.optimizer.decay_audio_mask_token = True
    return config
