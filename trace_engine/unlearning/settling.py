"""Settings that ask for a measurement, replaced by what was measured before a run begins.

A run's settings must say all that decides its bits, so a trial of the experts is made once, and the
settings with its answer are what is recorded, resumed and compared. Accepted cost: two runs of one
file may pick differently, and then they are different runs.
"""

import torch

from trace_engine.config import UnlearnConfig
from trace_engine.errors import ModelError
from trace_engine.models import settle
from trace_engine.routing import ALONE, Workers


def settle_run(config: UnlearnConfig, workers: Workers = ALONE) -> tuple[UnlearnConfig, str | None]:
    """The settings that the run is computed with, and what a trial picked, as a sentence.

    The trial has the run's number of threads and goes by forward and backward together. Raises
    ModelError for several processes, which might pick differently.
    """
    if config.model.experts_implementation != "trial":
        return config, None
    if workers.size > 1:
        raise ModelError(
            "experts_implementation trial is for one process, because several might pick "
            "differently. Choose one by its name: `trace-moe inspect --trial` times them."
        )
    before = torch.get_num_threads()
    try:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        model, trial = settle(config.model, training=True)
    finally:
        torch.set_num_threads(before)
    assert trial is not None
    return config.model_copy(update={"model": model}), trial.sentence(training=True)
