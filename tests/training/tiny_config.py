"""The config of the tests' tiny task."""

from ml_collections import ConfigDict

from avemo_jax.config import run_defaults


def get_config() -> ConfigDict:
    config = run_defaults()
    config.task, config.method = "tiny", "tiny"
    config.batch_size, config.total_steps = 8, 12
    config.optimizer.learning_rate, config.optimizer.warmup_share = 0.3, 0.0
    config.checkpoint.every_steps, config.log.every_steps, config.log.samples_every_steps = 4, 1, 0
    config.guard.max_bad_steps = 3
    config.tiny = ConfigDict(
        {
            "clips": 24,
            "sleep_s": 0.0,  # that a batch takes
            "poisoned": (),  # clips that are NaN
            "poisoned_from": -1,  # the first batch that is all NaN
            "poisoned_to": -1,  # the first that is not any more
        }
    )
    return config
