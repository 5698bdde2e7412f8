"""HiCMAE's fine-tuning recipe (Sun et al. 2024), for labels of your own: `finetune/recipe:SIZE`, or `…,reference`.

Sizes: demo, tiny, small, base, large, huge. Set `data.label`, `data.classes` and `model.classes`. `reference` repeats
what the PyTorch reference does, the choice of the best epoch on the test clips included, where the default here is
what was meant (docs/oddities.md). The corpora beside this file are this recipe with their labels.
"""

from ml_collections import ConfigDict

from avemo_jax.config import parse_argument, resize_positions, run_defaults

# width, heads, encoder depth
SIZES = {
    "demo": (192, 3, 6),
    "tiny": (256, 4, 10),
    "small": (384, 6, 10),
    "base": (512, 8, 10),
    "large": (768, 12, 12),
    "huge": (1280, 20, 12),
}


def get_config(arg: str = "base") -> ConfigDict:
    size, reference = parse_argument(arg, SIZES, variants=("reference",))
    dim, heads, depth = SIZES[size]
    config = run_defaults()
    config.task, config.method, config.size = "finetune", "hicmae", size
    config.batch_size, config.epochs = 56, 50
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
            "resize_positions": resize_positions(),
            "classes": 0,  # outputs
            "head_activation": "",
        }
    )
    config.data.crop, config.data.audio_gain = "none", True
    config.data.label, config.data.classes = "", ()
    config.data.target = "class"  # or plurality, majority, distribution, multi_label, raters; values, affect
    config.data.threshold = 0.0  # of multi_label, a share of votes; 0: one of as many as there are classes
    config.data.raters = ()  # of raters: whose choices the label says
    config.data.centres = ()  # of affect, CLASS:MEAN of each label:…:DEVIATION
    config.data.stitch = ""  # mean, triangle, centre: windows of long recordings are also judged as sequences
    config.data.stitch_step_s = 0.5  # between the times of such a sequence
    config.data.protocol = (
        ""  # folds, split, speaker_folds, leave_one_speaker_out, within_speakers; empty trains on every clip
    )
    config.data.fold = "1"  # the part of the protocol that is tested on
    config.data.fold_by = "fold"  # the metadata that protocol folds goes by
    config.data.test_split = "test"  # the split that protocol split tests on; split train is trained on
    config.data.folds = 5  # that speaker_folds deals speakers into, and within_speakers each one's clips
    config.data.development = (
        8  # one of so many groups of training speakers is held out to choose by; 0: none
    )
    config.data.rand_augment = ConfigDict({"operations": 4, "magnitude": 7.0, "deviation": 0.5})
    config.augment = ConfigDict(
        {
            "crop_area": (0.8, 1.0),  # shares of the picture
            "crop_aspect": (3 / 4, 4 / 3),
            "flip": 0.5,
            "erase": 0.25,
        }
    )
    config.mix = ConfigDict(
        {
            "mixup": 0.8,  # α of Beta; 0 is off
            "cutmix": 1.0,
            "probability": 1.0,  # of mixing a batch at all
            "switch": 0.5,  # of CutMix instead of Mixup
            "modalities": "both",  # or video: sound stays, though the target is mixed
        }
    )
    config.loss = ConfigDict(
        {
            "kind": "cross_entropy",  # kl, binary_cross_entropy, raters; mse, l1, smooth_l1, ccc, pcc
            "label_smoothing": 0.1,
            "class_weights": "",  # balanced: every class counts as much as any other
            "logit_adjustment": 0.0,  # times the log of each class's share is added to its logit in training
            "co_occurrence": 0.0,  # weight of a penalty on classes together that hardly ever are
            "together": (),  # training clips with both of two classes, row by row; counted like class_counts
            "class_counts": (),  # of the training clips; a run with a protocol counts them itself
        }
    )
    config.drop_modality = ConfigDict({"video": 0.0, "audio": 0.0})  # probability that a clip goes without
    config.freeze = ConfigDict({"layers": 0, "encoders": False})  # the first so many layers; all but the head
    config.select = ConfigDict(
        {
            "by": "development",  # the best look at these clips; or last, the end of the run; or test (legacy)
            "score": "",  # what the best look has the best of; "": the first score of data.target
            "every_epochs": 1.0,  # between looks
            "patience": 0,  # looks without a better one that end the run; 0 never does
        }
    )
    config.scores = ()  # further ones: names in avemo_jax/evaluation/scores, or Python files (docs/extend.md)
    config.views = ConfigDict(
        {
            "segments": 2,
            "crops": 2,
            "audio_gain": False,
            "alone": False,  # scores with the picture or the sound alone too
            "pool": "",  # a regular expression: clips in whose names its group is the same are judged as one
            "batch_size": 32,
        }
    )
    config.optimizer.b2, config.optimizer.layer_decay = 0.999, 0.75
    config.optimizer.learning_rate, config.optimizer.min_learning_rate = 1e-3, 1e-6
    config.optimizer.warmup_share = 0.1
    if reference:
        config.augment.crop_area = (0.08, 1.0)
        config.mix.modalities = "video"
        config.data.development = 0
        config.select.by, config.select.score = "test", "war"
        config.views.audio_gain = True
    return config
