"""Saves the unlearned model as a folder that opens like any other: weights, configuration,
tokenizer.

LoRA adapters are merged into a copy of the weights while saving, so that every run's result is one
kind of thing; the session's own model stays as it was. Accepted cost: with LoRA, the model is in
memory twice while it is saved.
"""

from pathlib import Path

from trace_engine.disk import saying_when_full
from trace_engine.errors import RunError
from trace_engine.models import OpenModel, Trainable


def save_whole_model(opened: OpenModel, trainable: Trainable, folder: Path) -> None:
    """Write safetensors, configuration and tokenizer to `folder`.

    Raises DiskFullError when there is no room, RunError when the disk refuses otherwise.
    """
    needed = sum(p.numel() * p.element_size() for p in opened.model.parameters())
    try:
        with saying_when_full(folder.parent, needed):
            trainable.plain_model().save_pretrained(folder)
            opened.tokenizer.save_pretrained(folder)
    except OSError as error:
        raise RunError(
            f"{folder}: the unlearned model could not be saved ({error.strerror or error}). "
            f"Its training state is untouched; make room and save again."
        ) from None
