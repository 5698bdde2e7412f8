"""MAFW's 43 emotions, eleven single and 32 compound ones, by their own official folds: `finetune/mafw_43:SIZE`, or
`…,reference`. Otherwise as `finetune/mafw`.
"""

from ml_collections import ConfigDict

from avemo_jax.config import load_config

CLASSES = (
    *("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    *("contempt", "anxiety", "helplessness", "disappointment"),
    *(
        "anger_anxiety",
        "anger_disgust",
        "anger_disgust_anxiety",
        "anger_disgust_contempt",
        "anger_helplessness",
    ),
    *("anger_sadness", "anger_surprise"),
    *("disgust_anxiety", "disgust_anxiety_helplessness", "disgust_contempt", "disgust_disappointment"),
    *("disgust_helplessness", "disgust_helplessness_disappointment", "disgust_sadness", "disgust_surprise"),
    *("fear_anxiety", "fear_sadness", "fear_sadness_anxiety", "fear_surprise", "fear_surprise_anxiety"),
    *("happiness_contempt", "happiness_surprise"),
    *("sadness_anxiety", "sadness_anxiety_helplessness", "sadness_disappointment", "sadness_helplessness"),
    *("sadness_helplessness_disappointment", "sadness_surprise", "surprise_anxiety"),
    *("anxiety_helplessness", "anxiety_helplessness_disappointment", "helplessness_disappointment"),
)


def get_config(arg: str = "base") -> ConfigDict:
    config = load_config(f"finetune/mafw:{arg}")
    with config.unlocked():
        config.data.label, config.data.classes = "compound_emotion", CLASSES
        config.data.fold_by = "compound_fold"
        config.model.classes = len(CLASSES)
    return config
