"""The manifest: SHA-256 of every file of an audit's folder, and its own, to be signed.

The lock is no part of it. Whoever changes a file and the manifest together is found by the figures
(`verify`), or by the manifest's own hash, which `trace-moe audit` prints for the auditor to keep
elsewhere.
"""

from pathlib import Path
from typing import Any

from trace_engine.audit.record import LOCK
from trace_engine.disk import read_json, sha256_file, write_json
from trace_engine.errors import RunError
from trace_engine.formats import AUDIT, FIELD, require_known

NAME = "manifest.json"


def files_of(folder: Path) -> list[str]:
    """Every file that a manifest covers, by its path inside the folder."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if (path.is_file() or path.is_symlink()) and path.name not in (NAME, LOCK)
    )


def write_manifest(folder: Path) -> str:
    """Write it; returns its own SHA-256."""
    files = {name: sha256_file(folder / name) for name in files_of(folder)}
    write_json(folder / NAME, {FIELD: AUDIT, "files": files})
    return sha256_file(folder / NAME)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises RunError when there is none, or a newer version wrote it."""
    data: dict[str, Any] | None = read_json(folder / NAME)
    if data is None:
        raise RunError(
            f"{folder.name}: there is no {NAME}, so this is not the folder of a finished audit. "
            "If the audit was interrupted, run it again: it goes on."
        )
    files = data.get("files") if isinstance(data, dict) else None
    if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
        raise RunError(f"{NAME} is damaged: it does not list files with their hashes.")
    require_known(data, AUDIT, NAME, RunError)
    return data


def changed_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """A sentence for every file that is missing, added or altered."""
    listed: dict[str, str] = manifest["files"]
    there = set(files_of(folder))
    said = [f"{name}: is missing" for name in sorted(set(listed) - there)]
    said += [f"{name}: is not in the manifest" for name in sorted(there - set(listed))]
    for name in sorted(there & set(listed)):
        path = folder / name
        if path.is_symlink():
            said.append(f"{name}: is a link, and was a file")
        elif sha256_file(path) != listed[name]:
            said.append(f"{name}: has been changed since the report was written")
    return said
