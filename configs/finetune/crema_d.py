"""HiCMAE's classifier on CREMA-D's six emotions: `finetune/crema_d:SIZE` with tiny, small or base.

The model, its optimiser groups and its schedule; the reference's video augmentation and mixup are not part of
it, so this is no recipe to publish numbers with. It is what fine-tuned reference weights are imported into.
"""

from ml_collections import ConfigDict

from avemo_jax.config import parse_argument, run_defaults

SIZES = {
    "demo": (192, 3, 6),
    "tiny": (256, 4, 10),
    "small": (384, 6, 10),
    "base": (512, 8, 10),
    "large": (768, 12, 12),
    "huge": (1280, 20, 12),
}


def get_config(arg: str = "base") -> ConfigDict:
    size, _ = parse_argument(arg, SIZES, variants=())
    dim, heads, depth = SIZES[size]
    config = run_defaults()
    config.task, config.method, config.size = "finetune", "hicmae", size
    config.batch_size, config.epochs = 56, 50
    config.label_smoothing = 0.1
    config.model = ConfigDict(
        {
            "dim": dim,
            "heads": heads,
            "depth": depth,
            "fusion_depth": 2,
            "drop_path": 0.1,
            "frames": 16,
            "image_size": 96 if size == "demo" else 160,
            "audio_frames": 256,
            "mel_bins": 128,
            "classes": 6,
            "head_activation": "",
        }
    )
    config.data.crop, config.data.audio_gain = "none", True
    config.data.label = "emotion"
    config.data.classes = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    config.optimizer.b2, config.optimizer.layer_decay = 0.999, 0.75
    config.optimizer.learning_rate, config.optimizer.min_learning_rate = 1e-3, 1e-6
    config.optimizer.warmup_share = 0.1
    return config
