"""Checkpoints that are either complete and proven, or not there.

A checkpoint is a directory of safetensors and JSON whose manifest, written last, holds the SHA-256
of every file. Reading verifies all of it before anything is used. It accepts hashing each file
twice.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_engine.disk import (
    commit,
    fsync_path,
    read_json,
    remove_folder,
    require_space,
    saying_when_full,
    sha256_file,
    write_json,
)
from trace_engine.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 2
"""How many of the newest checkpoints stay; one more would only cost disk, one fewer has no
fallback."""

_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    path: Path
    step: int
    attempt: int
    identity: dict[str, Any]
    """What the run computes: settings, and the fingerprints of model and sets."""
    files: dict[str, str]
    """SHA-256 of every file."""

    def load(self) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
        """The tensors (on the CPU) and the JSON state. Call `verify` first."""
        return load_state(self.path)

    def verify(self) -> None:
        """Raise RunError naming the first file that is missing or differs from its recorded
        hash, or is not vouched for."""
        if set(self.files) != {_TENSORS, _STATE}:
            raise RunError(f"Checkpoint {self.path.name} is damaged: its manifest is not of it.")
        for name, expected in self.files.items():
            file = self.path / name
            if not file.is_file():
                raise RunError(f"Checkpoint {self.path.name} is damaged: {name} is missing.")
            if sha256_file(file) != expected:
                raise RunError(
                    f"Checkpoint {self.path.name} is damaged: {name} differs from its hash."
                )


def load_state(path: Path) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """The tensors (on the CPU) and the JSON state of a checkpoint that has been verified."""
    from safetensors.torch import load_file  # readers of runs must not pay for torch

    return load_file(path / _TENSORS), read_json(path / _STATE)


def save_checkpoint(
    folder: Path,
    tensors: Mapping[str, "Tensor"],
    state: dict[str, Any],
    *,
    step: int,
    attempt: int,
    identity: dict[str, Any],
) -> Checkpoint:
    """Write `folder/<step>` and then drop all but the newest KEPT. Raises DiskFullError beforehand.

    `state` must survive JSON unchanged (str keys, finite floats); floats come back bit for bit.
    """
    from safetensors.torch import save_file

    text = json.dumps(state, allow_nan=False)
    needed = sum(t.numel() * t.element_size() for t in tensors.values()) + len(text)
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        fsync_path(folder.parent)
    require_space(folder, 2 * needed)
    target = folder / f"{step:06d}"
    target.mkdir(exist_ok=True)
    # A manifest that outlived its files would vouch for a mixture of two attempts.
    (target / _MANIFEST).unlink(missing_ok=True)
    fsync_path(target)
    # What a killed attempt left of this step, under names that the libraries gave it.
    for path in target.iterdir():
        remove_folder(path) if path.is_dir() else path.unlink()
    with saying_when_full(folder, needed):
        contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
        save_file(contiguous, target / f".{_TENSORS}.tmp")
        commit(target / f".{_TENSORS}.tmp", target / _TENSORS)
        (target / f".{_STATE}.tmp").write_text(text, encoding="utf-8")
        commit(target / f".{_STATE}.tmp", target / _STATE)
    files = {name: sha256_file(target / name) for name in (_TENSORS, _STATE)}
    manifest = {
        "format": _FORMAT,
        "step": step,
        "attempt": attempt,
        "identity": identity,
        "files": files,
    }
    write_json(target / _MANIFEST, manifest)
    fsync_path(folder)
    _retain(folder, step)
    return Checkpoint(target, step, attempt, identity, files)


def _retain(folder: Path, newest: int) -> None:
    """Remove what the last checkpoints make superfluous, and what killed writers left unfinished.

    Checkpoints beyond `newest` belong to an attempt whose files were found damaged; they go too.
    """
    complete = [c for c in list_checkpoints(folder) if c.step <= newest]
    kept = {c.path for c in complete[-KEPT:]}
    for path in folder.iterdir():
        if path.is_dir() and path not in kept:
            (path / _MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(path)


def list_checkpoints(folder: Path) -> list[Checkpoint]:
    """Every complete checkpoint, oldest first; a directory without a readable manifest is not
    one."""
    found = []
    if not folder.is_dir():
        return []
    for path in sorted(folder.iterdir()):
        try:
            manifest = read_json(path / _MANIFEST) if path.is_dir() else None
            if manifest is not None:
                found.append(
                    Checkpoint(
                        path=path,
                        step=int(manifest["step"]),
                        attempt=int(manifest["attempt"]),
                        identity=dict(manifest["identity"]),
                        files=dict(manifest["files"]),
                    )
                )
        except (RunError, KeyError, TypeError, ValueError):
            continue
    return found


def damaged_manifests(folder: Path) -> list[str]:
    """A sentence for each manifest that is there and cannot be read: damage, not an interrupted
    write."""
    if not folder.is_dir():
        return []
    complete = {c.path for c in list_checkpoints(folder)}
    return [
        f"Checkpoint {path.name} is damaged: its manifest cannot be read."
        for path in sorted(folder.iterdir())
        if (path / _MANIFEST).exists() and path not in complete
    ]


def newest_sound(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose hashes hold, and a sentence for each newer one that is
    damaged."""
    notes = damaged_manifests(folder)
    for checkpoint in reversed(list_checkpoints(folder)):
        try:
            checkpoint.verify()
        except RunError as error:
            notes.append(str(error))
        else:
            return checkpoint, notes
    return None, notes


def require_same(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Raise RunError naming each field in which a resume differs from what the checkpoint was made
    with."""
    old, new = dict(_flat(recorded)), dict(_flat(found))
    differing = [
        f"{name} was {_short(old.get(name))}, is {_short(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differing:
        raise RunError(
            f"This run cannot be resumed, because it would compute something else: "
            f"{'; '.join(differing)}. Undo the change, or start a new run. Nothing was overwritten."
        )


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, Mapping):
            items += _flat(value, f"{prefix}{key}.")
        else:
            items.append((f"{prefix}{key}", value))
    return items


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else text[:40] + "…"
