"""Writes an export: the run's model as it was saved, or its adapter alone, and the model card.

The folder appears whole or not at all. It accepts a second copy of the weights: an export is given
away, and must not change when the run is deleted, nor the run when the export is edited.
"""

import shutil
from pathlib import Path

from trace_engine.config import UnlearnConfig
from trace_engine.disk import place_folder, require_space, sha256_file, write_text
from trace_engine.errors import InputError, RunError
from trace_engine.export.card import Form, model_card
from trace_engine.export.record import require_finished
from trace_engine.formats import is_pickle
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.runs.directory import RunDirectory

CARD = "README.md"


def forms_of(config: UnlearnConfig) -> tuple[Form, ...]:
    """What a run of these settings can be exported as, the usual one first."""
    return ("merged", "adapter") if config.trainable.kind == "lora" else ("merged",)


def check_exportable(run: RunDirectory, form: Form = "merged") -> UnlearnConfig:
    """The run's settings. Raises RunError, saying why, when it cannot be exported in this form."""
    config = run.config()
    if not isinstance(config, UnlearnConfig):
        raise RunError(f"Run {run.id} made a profile; only an unlearning run has a model.")
    require_finished(run)
    if form not in forms_of(config):
        raise RunError(
            f"Run {run.id} has no adapter: its trainable.kind is {config.trainable.kind}, and only "
            "lora trains one. Export the whole model."
        )
    if run.model_folder() is None:
        raise RunError(
            f"Run {run.id} has no model folder: it was removed, or left out when the run was "
            "copied. Nothing was exported."
        )
    return config


def export_run(
    run: RunDirectory | str | Path,
    out: str | Path,
    form: Form = "merged",
    *,
    report: ProgressCallback = ignore_progress,
) -> Path:
    """Export a finished run, given as its directory or as the folder that `unlearn` left, to a
    new or empty folder; returns the folder.

    `merged` copies the model as the run saved it (LoRA is in its weights), tokenizer included.
    `adapter` writes LoRA's weights for PEFT, which takes opening the start model. Both get a
    README.md, the model card. Raises RunError for an unfinished run, an adapter of a run that has
    none or weights that are not safetensors, InputError for a folder that holds something,
    DiskFullError before anything is written.
    """
    run = run if isinstance(run, RunDirectory) else RunDirectory(Path(run))
    config = check_exportable(run, form)
    target = Path(out).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(
            f"{target.name}: expected a new or empty folder for the export. Nothing was written; "
            "name another one."
        )

    def fill(folder: Path) -> None:
        folder.mkdir()
        if form == "adapter":
            # Torch and the start model: only this form pays for them.
            from trace_engine.export.adapter import write_adapter

            write_adapter(run, config, folder, report)
        else:
            _copy_model(run, folder)
        hashes = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
        write_text(folder / CARD, model_card(run, config, form, hashes))

    target.parent.mkdir(parents=True, exist_ok=True)
    place_folder(target, fill)
    return target


def _copy_model(run: RunDirectory, folder: Path) -> None:
    source = run.model_folder()
    assert source is not None
    files = sorted(path for path in source.iterdir() if path.is_file())
    for path in files:
        if path.is_symlink():
            raise RunError(
                f"Run {run.id}: model/{path.name} is a symbolic link, which may point anywhere. "
                "Put the file itself there. Nothing was exported."
            )
        if is_pickle(path.name):
            raise RunError(
                f"Run {run.id}: model/{path.name} is a pickle, and exports are safetensors only. "
                "Nothing was exported."
            )
    if not any(path.suffix == ".safetensors" for path in files):
        raise RunError(
            f"Run {run.id} has no weights in its model folder: there is no .safetensors file. "
            "Nothing was exported."
        )
    require_space(folder.parent, sum(path.stat().st_size for path in files))
    for path in files:
        if path.name != CARD:
            shutil.copyfile(path, folder / path.name)
