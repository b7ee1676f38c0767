"""From a model's source to a folder of files that is safe to read, refused before anything is
opened.

Only safetensors, JSON and tokenizer files are ever fetched or read: pickled weights can run code,
so a folder or repository that has nothing else is refused by its listing alone. Of a hub model the
small files come first and its weights are told by listing and headers; `fetched` brings them once
nothing speaks against it. Trade-off: from then on the hub's cache is treated like any folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from trace_engine.bundled import resolve_source
from trace_engine.disk import parse_json
from trace_engine.errors import ModelError
from trace_engine.exhaustion import ran_out
from trace_engine.formats import is_pickle
from trace_engine.models import hub
from trace_engine.regular import WHAT, irregular, open_file, read_text
from trace_engine.spelling import size

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A readable model folder."""

    source: str
    """As the user named it; every message names this, never a cache folder."""
    folder: Path
    revision: str | None
    """Commit of a hub model; None for a folder."""
    config: dict[str, Any]
    """The folder's `config.json`."""
    weights: tuple[str, ...]
    """Names of the safetensors files, sorted."""
    absent: Mapping[str, hub.Listed] = field(default_factory=dict)
    """Of the weights, those that are still on the hub only."""


def locate(source: str, revision: str | None = None) -> ModelFiles:
    """Find a model's folder and check its files, without loading a tensor; a hub model's weights
    are not fetched (see `fetched`).

    `source` is a folder, a hub id (`owner/name`), or a `demo:` name. Raises ModelError, each with
    its own sentence, for: a missing folder, one without config or weights, pickled weights only, a
    damaged safetensors file, a hub id that is unknown, gated or unreachable, and a model that needs
    remote code.
    """
    if not source.strip():
        raise ModelError(
            "No model is given. Give a model folder, a hub id (owner/name), or demo:target."
        )
    path = Path(resolve_source(source)).expanduser()
    try:
        is_folder, is_file = path.is_dir(), path.is_file()
    except OSError:  # a name too long for the file system
        is_folder = is_file = False
    if (is_folder or is_file) and revision is not None:
        raise ModelError(
            f"{source} is on this machine, where a model has no revisions, and revision is "
            f"{revision!r}. Leave revision out, or give a hub id."
        )
    listed: dict[str, hub.Listed] = {}
    if is_folder:
        folder, commit = path, None
    elif is_file:
        raise ModelError(
            f"{source} is a file. A model is a folder with config.json, *.safetensors and a "
            "tokenizer."
        )
    elif _HUB_ID.fullmatch(source):
        folder, listed = _from_hub(source, revision)
        commit = folder.name
    else:
        raise ModelError(
            f"There is no folder {source[:200]}. Give a model folder, a hub id (owner/name), or "
            "demo:target."
        )
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in irregular(inside):
        raise ModelError(f"{source}: {path.name} is {WHAT}, where a model has files.")
    there = {path.name for path in inside}
    names = sorted(there | listed.keys())
    _refuse_adapter(source, names)
    config = _read_config(source, folder)
    _refuse_remote_code(source, config)
    if commit is not None and not listed:
        named = _named_in_index(source, folder, names) or [_WHOLE]
        if not all(_is_file(folder / name) for name in named):
            raise hub.offline(source)  # an earlier visit fetched a part
    weights = _weights(source, folder, names)
    absent = {n: listed[n] for n in weights if n in listed and not (folder / n).is_file()}
    files = ModelFiles(source, folder, commit, config, weights, absent)
    _check_readable(files, [name for name in weights if name not in absent])
    if any(item.size is None or item.sha256 is None for item in absent.values()):
        return fetched(files)  # nothing but the files themselves tells their size and hash
    return files


def fetched(files: ModelFiles) -> ModelFiles:
    """The model with its weights on this machine; those of a folder are. Raises ModelError when the
    disk has no room for them, or they cannot be had."""
    if not files.absent:
        return files
    if (problem := too_little_disk(files)) is not None:
        raise ModelError(f"{problem} Nothing was fetched.")
    hub.weights(files.source, str(files.revision), list(files.absent))
    _check_readable(files, list(files.absent))
    return replace(files, absent={})


def too_little_disk(files: ModelFiles) -> str | None:
    """Why weights cannot be fetched for want of room on the disk; None where there is enough."""
    # <cache>/models--owner--name/snapshots/<commit>, beside blobs/<SHA-256>, which commits share.
    blobs = files.folder.parent.parent / "blobs"
    needed = sum(
        item.size or 0 for item in files.absent.values() if not (blobs / str(item.sha256)).exists()
    )
    free = shutil.disk_usage(files.folder).free
    if needed <= free:
        return None
    return (
        f"{files.source} has {size(needed)} of weights to fetch, and the disk of the hub's cache "
        f"has {size(free)} free: make room there, or set HF_HOME to a folder on a larger disk."
    )


def file_hashes(files: ModelFiles) -> dict[str, str]:
    """SHA-256 of what decides a model's behaviour: weights, config, tokenizer files, by name."""
    names = ["config.json", *TOKENIZER_FILES, *files.weights]
    listed = {name: item.sha256 for name, item in files.absent.items() if item.sha256 is not None}
    present = {n: files.folder / n for n in names if n not in listed}
    hashes = {name: _sha256(path) for name, path in present.items() if path.is_file()}
    return dict(sorted((hashes | listed).items()))


def weights_size(files: ModelFiles) -> int:
    """Bytes of the weights' files."""
    listed = sum(item.size or 0 for item in files.absent.values())
    return listed + sum(
        (files.folder / name).stat().st_size for name in files.weights if name not in files.absent
    )


def stored_tensors(files: ModelFiles) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and precision (safetensors' word) of every tensor, off the weights files'
    headers, wherever they are. Raises ModelError for a file that cannot be read."""
    absent = tuple(sorted(files.absent))
    remote = hub.headers(files.source, str(files.revision), absent) if absent else {}
    for file in files.weights:
        if file in remote:
            yield from remote[file]
            continue
        try:
            # Torch would map the whole file once more; the headers are the same.
            with safe_open(files.folder / file, framework="numpy") as tensors:
                for key in tensors.keys():  # noqa: SIM118 - not a mapping
                    tensor = tensors.get_slice(key)
                    yield key, tuple(tensor.get_shape()), str(tensor.get_dtype())
        except (SafetensorError, OSError, RuntimeError) as error:
            raise ModelError(f"{files.source}: {file} cannot be read ({error}).") from None


def stored_dtype(files: ModelFiles) -> str | None:
    """Precision of the first floating tensor, read off the weights files' headers; None without
    one."""
    names = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    return next((names[dtype] for _, _, dtype in stored_tensors(files) if dtype in names), None)


def fingerprint(hashes: dict[str, str]) -> str:
    """SHA-256 over the lines `name hash`, sorted by name: one value for the whole model."""
    lines = "".join(f"{name} {value}\n" for name, value in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _from_hub(source: str, revision: str | None) -> tuple[Path, dict[str, hub.Listed]]:
    """The folder of the small files, and what the hub lists of its commit; empty when offline."""
    found = hub.listing(source, revision)
    if found is not None:
        names = sorted(found.files)
        _refuse_pickles(source, names)
        _refuse_adapter(source, names)
    folder = hub.small_files(source, revision)
    if found is not None and found.commit != folder.name:  # it moved between the two questions
        found = hub.listing(source, folder.name)
    return folder, {} if found is None else found.files


def _read_config(source: str, folder: Path) -> dict[str, Any]:
    try:
        config = parse_json(read_text(folder / "config.json"))
    except FileNotFoundError:
        raise ModelError(
            f"{source} has no config.json, so it is not a transformers model folder."
        ) from None
    except ValueError as error:
        raise ModelError(f"{source}: config.json is not readable JSON ({error}).") from None
    if not isinstance(config, dict):
        raise ModelError(f"{source}: config.json holds no settings.")
    return config


def _refuse_remote_code(source: str, config: dict[str, Any]) -> None:
    # Imported late: the mapping's module is heavy, and messages about files should not wait for it.
    from transformers import CONFIG_MAPPING

    kind = config.get("model_type")
    if not isinstance(kind, str):
        raise ModelError(
            f"{source}: config.json does not name its architecture: model_type is "
            f"{repr(kind)[:40]}, and a name is expected."
        )
    if kind in CONFIG_MAPPING:
        return
    if config.get("auto_map"):
        raise ModelError(
            f"{source} brings its own Python code ({kind[:80]}), which TRACE never runs. Use a "
            "model whose architecture transformers itself has."
        )
    raise ModelError(
        f"{source}: this version of transformers does not know the architecture "
        f"{kind[:80]!r}. Upgrade transformers, or use a model that it has."
    )


def _refuse_pickles(source: str, names: list[str]) -> None:
    pickled = [name for name in names if is_pickle(name)]
    if pickled and not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{source} has only pickled weights ({', '.join(pickled[:3])}), which can run code "
            "when they "
            "are opened. They were not opened. Convert the model to safetensors."
        )


def _weights(source: str, folder: Path, names: list[str]) -> tuple[str, ...]:
    _refuse_pickles(source, names)
    weights = _named_in_index(source, folder, names)
    if weights is None:
        found = [name for name in names if name.endswith(".safetensors")]
        if _WHOLE not in found:
            raise ModelError(_without_whole(source, found))
        weights = [_WHOLE]
    for name in weights:
        if name not in names:
            raise ModelError(
                f"{source}: the weights file {name:.80} is missing, though the index names it."
            )
    return tuple(sorted(weights))


def _check_readable(files: ModelFiles, names: Sequence[str]) -> None:
    for name in names:
        path = files.folder / name
        if not _is_file(path):
            kind = "a folder" if path.is_dir() else "no file that can be read"
            if path.is_symlink() and not path.exists():
                kind = "a link that leads nowhere"
            raise ModelError(
                f"{files.source}: {name} is {kind}, where weights are expected. Copy or download "
                "it again."
            )
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError, RuntimeError) as error:
            if ran_out(error):
                raise ModelError(
                    f"{files.source}: {name} ({size(path.stat().st_size)}) cannot be mapped, "
                    "because this process may not take so much memory. Raise its limit (ulimit "
                    "-v), or take a machine with more memory."
                ) from None
            raise ModelError(
                f"{files.source}: {name} is damaged or incomplete ({error}). Copy or download it "
                "again."
            ) from None


def _without_whole(source: str, found: list[str]) -> str:
    """Why there is nothing to load: what transformers looks for is one file, or an index of all."""
    if not found:
        return f"{source} has no weights: expected *.safetensors beside config.json."
    return (
        f"{source} has {', '.join(found[:3])}, and neither {_WHOLE} nor {_INDEX}, which says what "
        "belongs together: a part of a model that was downloaded or copied in part. Bring the rest."
    )


def _refuse_adapter(source: str, names: list[str]) -> None:
    # transformers would put it on the model unasked, and routing would be that of another model.
    alone = not {_WHOLE, _INDEX} & set(names)
    if "adapter_config.json" in names or ("adapter_model.safetensors" in names and alone):
        raise ModelError(
            f"{source} holds {'only an adapter' if alone else 'an adapter beside a model'} (PEFT, "
            "for example LoRA). Merge it into its base model (merge_and_unload) and save that, or "
            "give the base model."
        )


def _is_file(path: Path) -> bool:
    """Whether it is there; a name that no disk can hold is not."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _named_in_index(source: str, folder: Path, names: list[str]) -> list[str] | None:
    path, whole = folder / _INDEX, folder / _WHOLE
    on_hub = _WHOLE in names and not os.path.lexists(whole)
    if not path.is_file() or whole.is_file() or on_hub:
        return None
    try:
        named = set(parse_json(read_text(path))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ModelError(f"{source}: {path.name} is not a readable index of weights.") from None
    outside = sorted(str(n) for n in named if not isinstance(n, str) or Path(n).name != n)
    if outside:
        raise ModelError(f"{source}: {path.name} names a file outside the folder ({outside[0]}).")
    return sorted(named)


def _sha256(path: Path) -> str:
    # The hub's cache names large files by their SHA-256; hashing them again would take minutes.
    real = path.resolve()
    if path.is_symlink() and real.parent.name == "blobs" and _SHA256.fullmatch(real.name):
        return real.name
    with open_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
