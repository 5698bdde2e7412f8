"""One encoder fine-tuned on several prepared folders, a head for each: `finetune/several:SIZE,HEAD,HEAD…`.

A HEAD is the name of a config beside this file, whose labels, protocol and loss it takes, or NAME=CONFIG. `data.paths`
names a folder for each, in the same order. `heads.NAME.teacher` is the work directory of a run of `avemo finetune` on
that folder: the head then learns from its outputs too (distillation). All else is the recipe's, of averaged weights;
heads with development speakers have a say in which are taken, and where there is none the end of the run is.
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config
from avemo_jax.errors import UserError

# Of a single run's `data`: each head has its own.
OWN = ("label", "target", "classes", "threshold", "centres")
OWN += ("protocol", "fold", "fold_by", "test_split", "folds", "development")
_LEFT_OUT = ("raters", "stitch", "stitch_step_s")


def get_config(arg: str = "base,crema_d,ravdess") -> ConfigDict:
    size, *words = arg.split(",")
    config, heads, outputs = load_config(f"finetune/recipe:{size}"), {}, 0
    for word in words:
        name, _, source = word.partition("=")
        if not name.isidentifier() or name in heads:
            raise UserError(
                f"head '{name}' is {'there twice' if name in heads else 'no name'}: HEAD or NAME=CONFIG"
            )
        single = load_config(f"finetune/{source or name}:{size}")
        heads[name] = {
            **{key: single.data[key] for key in OWN},
            "loss": single.loss.kind,  # of single clips: not ccc or pcc
            "label_smoothing": single.loss.label_smoothing,
            "pool": single.views.pool,
            "weight": 1.0,  # of its clips' losses
            "teacher": "",  # a work directory of avemo finetune
        }
        outputs += single.model.classes
    if len(heads) < 2:
        raise UserError("several takes two heads or more, as in finetune/several:base,crema_d,ravdess")
    with config.unlocked():
        config.task, config.model.classes = "several", outputs
        for key in (*OWN, *_LEFT_OUT):
            del config.data[key]
        del config.loss, config.select.score
        config.data.heads, config.heads = (
            tuple(heads),
            ConfigDict(heads),
        )  # whose own order is of the alphabet
        config.distill = ConfigDict(
            {
                "weight": 0.8,  # of what a teacher says, against the clip's own label
                "temperature": 1.0,  # that probabilities are softened by
            }
        )
        config.select.by = "development" if any(head["development"] for head in heads.values()) else "last"
        config.ema.decay = 0.999
        if any(head["target"] == "values" for head in heads.values()):
            config.mix.probability = 0.0
    return config
