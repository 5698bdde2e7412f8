"""HiCMAE pretraining (Sun et al. 2024): `hicmae:SIZE`, or `hicmae:SIZE,reference`.

Sizes: demo, tiny, small, base, large, huge. `reference` repeats what the PyTorch reference does where the
default here is what was meant (docs/oddities.md).
"""

from ml_collections import ConfigDict

from avemo_jax.config import parse_argument, run_defaults

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
            "drop_path": 0.0,
            "frames": 16,
            "image_size": 160,
            "audio_frames": 256,
            "mel_bins": 128,
        }
    )
    # repeats: masks that each clip of a batch is learnt from; decoded once, it costs the host nothing more
    config.mask = ConfigDict({"video_ratio": 0.9, "audio_ratio": 0.8, "repeats": 1})
    config.target = ConfigDict(
        {
            "normalize_video": True,
            "normalize_audio": True,
            "frame_difference": True,
            "frame_group": 2,
            "difference_weight": -1.0,  # negative: one plain error over frames and differences
        }
    )
    config.contrast = ConfigDict(
        {
            "weight": 0.0025,
            "temperature": 0.07,
            "negatives": "global",
            "group_size": 40,
            "cached": False,  # with accumulate: over the whole batch, not each microbatch (GradCache)
            "chunk": 2048,  # larger groups are compared so many clips at a time; 0 is all at once
        }
    )
    config.data.crop, config.data.audio_gain = "multi_scale", True
    if size == "demo":
        # Small batches and two masks a clip: what learns most from 30,400 clips (docs/real_clips.md).
        config.batch_size, config.epochs, config.total_steps = 16, 0, 1900
        config.mask.repeats = 2
        config.model.image_size = 96
        config.contrast.group_size = 16
        config.optimizer.learning_rate, config.optimizer.min_learning_rate = 9.6e-3, 1.6e-4
    if reference:
        config.contrast.negatives = "local"
        config.optimizer.decay_audio_mask_token = True
    return config
