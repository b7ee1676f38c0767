"""A LoRA run's adapter: taken from its last checkpoint, and proved on the start model.

A run keeps its adapters in its checkpoints and a merged model beside them. It accepts opening the
start model once more: names and order of the adapters are then PEFT's own, never guessed.
"""

import contextlib
from pathlib import Path

from trace_engine.config import UnlearnConfig
from trace_engine.errors import RunError
from trace_engine.models import make_trainable, open_model
from trace_engine.progress import Progress, ProgressCallback
from trace_engine.runs.checkpoints import newest_sound
from trace_engine.runs.directory import RunDirectory
from trace_engine.unlearning.packing import under


def write_adapter(
    run: RunDirectory, config: UnlearnConfig, folder: Path, report: ProgressCallback
) -> None:
    """Fill `folder` with adapter and tokenizer. Raises RunError when the last checkpoint is gone or
    the start model is another one by now."""
    checkpoint, _ = newest_sound(run.path / "checkpoints")
    last = run.rows("train")[-1]["step"]
    if checkpoint is None or checkpoint.step != last:
        raise RunError(
            f"Run {run.id}: the checkpoint of its last step ({last}) is missing or damaged, and "
            "the adapter is in it (Python's `unlearn` keeps none). Export the whole model instead."
        )
    report(Progress("opening the start model", 0, 1, "models", None, None))
    with contextlib.chdir(run.launch_folder()):
        opened = open_model(config.model)
    recorded = run.facts().get("identity", {}).get("model")
    if recorded is not None and opened.info.fingerprint != recorded:
        raise RunError(
            f"Run {run.id} was trained on another {config.model.source}: its files have changed "
            "since. Put the old ones back, or export the whole model."
        )
    trainable = make_trainable(opened, config.trainable, seed=config.seed)
    try:
        tensors, _ = checkpoint.load()
        best = under(tensors, "best")  # there where the run saved its best evaluation's model
        trainable.load(best or under(tensors, "trainable"))
        trainable.save_adapter(folder)
    finally:
        trainable.close()
    opened.tokenizer.save_pretrained(folder)
