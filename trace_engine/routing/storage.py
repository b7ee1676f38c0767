"""Profiles on disk: compressed arrays without pickle, JSON beside them, hashes over all of it.

`profile.json` names the schema and the SHA-256 of every other file, so damage is found on loading
and said in a sentence. The directory is written beside its place and renamed. Accepted cost:
replacing an existing profile takes two renames, and a reader in between sees no profile rather than
half of one.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.disk import parse_json, place_folder
from trace_engine.errors import InputError
from trace_engine.formats import require_known
from trace_engine.regular import read_bytes, read_text
from trace_engine.routing.mapped import file_hash, mapped_arrays
from trace_engine.routing.profile import Profile, RoutingCounts, TokenSample

SCHEMA = 1
"""Of profiles whose rows are documents; part of a profile's key."""
BLOCKS_SCHEMA = 2
"""Of profiles with a side in blocks, so that a program that would call them documents refuses."""
COMPRESSED_BYTES = 64 * 2**20
HEAD = "profile.json"
FILES = ("counts.npz", "sample.npz", "documents.json", "vocabulary.json")
DAMAGE = (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged npz or JSON file can raise."""

Arrays = dict[str, NDArray[Any]]
SAMPLE_DTYPES = {
    "document_N": np.int32,
    "position_N": np.int32,
    "token_N": np.int32,
    "labelled_N": np.bool_,
    "counted_N": np.bool_,
    "index_NLK": np.int16,
    "gate_NLK": np.float16,
}
COUNT_DTYPES = {
    "tokens_D": np.int64,
    "counts_DLE": np.int64,
    "gate_mass_DLE": np.float64,
    "skipped_DL": np.int64,
    "coactivation_LEE": np.int64,
    "token_ids_V": np.int64,
    "token_totals_V": np.int64,
    "token_counts_VLE": np.int64,
}


def save_profile(profile: Profile, directory: Path) -> None:
    """Write `profile` as `directory`, replacing what is there. Raises DiskFullError where there is
    no room, InputError when it cannot otherwise."""
    sides = {"forget": profile.forget, "retain": profile.retain}
    samples = {"forget": profile.sample_forget, "retain": profile.sample_retain}
    blocks = {
        f"{side}.block_documents_D": part.block_documents_D
        for side, part in sides.items()
        if part.block_documents_D is not None
    }
    documents = {side: list(part.document_ids) for side, part in sides.items()}
    if blocks:
        documents |= {f"{side}.sampled": list(part.document_ids) for side, part in samples.items()}
    contents = (
        pack_arrays(_prefixed(sides, COUNT_DTYPES) | blocks),
        pack_arrays(_prefixed(samples, SAMPLE_DTYPES)),
        _json(documents),
        _json({str(i): text for i, text in sorted(profile.token_text.items())}),
    )
    files = dict(zip(FILES, contents, strict=True))
    head = {
        "schema": BLOCKS_SCHEMA if blocks else SCHEMA,
        "layers": list(profile.layers),
        "num_experts": list(profile.num_experts_L),
        "experts_per_token": list(profile.experts_per_token_L),
        "truncated_documents": {side: part.truncated_documents for side, part in sides.items()},
        "sample_complete": {side: part.complete for side, part in samples.items()},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        "meta": profile.meta,
    }
    try:
        write_directory(directory, files | {HEAD: _json(head, indent=1)})
    except OSError as error:
        raise InputError(
            f"{directory}: the profile could not be saved ({error.strerror})."
        ) from None


def load_profile(directory: Path) -> Profile:
    """Read what `save_profile` wrote. Raises InputError when missing, damaged or of other
    schema."""
    head = read_head(directory)
    try:
        for name in FILES:
            _verify(directory / name, head["files"][name])
        counts = _arrays(directory / "counts.npz")
        samples = _arrays(directory / "sample.npz")
        documents = parse_json(read_bytes(directory / "documents.json"))
        vocabulary = parse_json(read_bytes(directory / "vocabulary.json"))
        parts = {
            side: RoutingCounts(
                document_ids=tuple(documents[side]),
                truncated_documents=int(head["truncated_documents"][side]),
                block_documents_D=_blocks(counts, side),
                **_restored(counts, side, COUNT_DTYPES),
            )
            for side in ("forget", "retain")
        }
        sampled = {
            side: TokenSample(
                complete=bool(head["sample_complete"][side]),
                document_ids=tuple(documents.get(f"{side}.sampled", ())),
                **_restored(samples, side, SAMPLE_DTYPES),
            )
            for side in ("forget", "retain")
        }
        return Profile(
            meta=head["meta"],
            layers=tuple(head["layers"]),
            num_experts_L=tuple(head["num_experts"]),
            experts_per_token_L=tuple(head["experts_per_token"]),
            forget=parts["forget"],
            retain=parts["retain"],
            sample_forget=sampled["forget"],
            sample_retain=sampled["retain"],
            token_text={int(i): text for i, text in vocabulary.items()},
        )
    except InputError:
        raise
    except (*DAMAGE, TypeError, AttributeError) as error:
        raise InputError(
            f"{directory}: the profile is damaged ({type(error).__name__}: {error}). "
            "Profile the sets again; nothing else was lost."
        ) from None


def read_head(directory: Path) -> dict[str, Any]:
    """`profile.json` of a profile, checked for its schema. Raises InputError."""
    path = directory / HEAD
    try:
        head = parse_json(read_text(path))
    except FileNotFoundError:
        raise InputError(f"{directory}: no profile here (there is no {HEAD}).") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable profile header ({error}).") from None
    schema = head.get("schema") if isinstance(head, dict) else None
    if isinstance(schema, int):
        what = f"{directory}: the profile"
        require_known(head, BLOCKS_SCHEMA, what, InputError, field="schema")
    if schema not in (SCHEMA, BLOCKS_SCHEMA):
        raise InputError(
            f"{path}: profile schema {schema!r}, expected {SCHEMA} or {BLOCKS_SCHEMA}. It was "
            "written by another version of this program; profile the sets again or use that "
            "version."
        )
    return dict(head)


def profile_digest(directory: Path) -> str:
    """SHA-256 over a saved profile's header, which holds the hashes of its other files."""
    read_head(directory)
    return hashlib.sha256(read_bytes(directory / HEAD)).hexdigest()


def pack_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as an npz without pickle; integers in the narrowest type that holds them.

    Compressed up to `COMPRESSED_BYTES`: beyond, deflating takes minutes and saves less than half.
    """
    buffer = io.BytesIO()
    # Object arrays, the only ones that numpy would pickle, are refused by `narrow`.
    kept: dict[str, Any] = {name: narrow(array) for name, array in arrays.items()}
    small = sum(array.nbytes for array in kept.values()) <= COMPRESSED_BYTES
    (np.savez_compressed if small else np.savez)(buffer, **kept)
    return buffer.getvalue()


def unpack_arrays(data: bytes) -> Arrays:
    """Inverse of `pack_arrays`; raises ValueError or BadZipFile on damaged bytes."""
    with np.load(io.BytesIO(data), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def write_directory(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files as a directory that appears complete or not at all; an older one is replaced."""

    def fill(folder: Path) -> None:
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)

    place_folder(directory, fill, sum(len(data) for data in files.values()))


def _json(value: Any, indent: int | None = None) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False).encode()


def _arrays(path: Path) -> Arrays:
    """All arrays of a file: mapped where they are large, in memory where they are small."""
    arrays = mapped_arrays(path)
    return unpack_arrays(read_bytes(path)) if arrays is None else arrays


def _verify(path: Path, digest: str) -> None:
    if not path.exists():
        raise InputError(f"{path.parent}: the profile is damaged, {path.name} is missing.")
    if file_hash(path) != digest:
        raise InputError(
            f"{path.parent}: the profile is damaged, {path.name} does not match its recorded hash. "
            "Profile the sets again; nothing else was lost."
        )


def _prefixed(parts: Mapping[str, Any], names: Mapping[str, Any]) -> Arrays:
    return {f"{side}.{name}": getattr(part, name) for side, part in parts.items() for name in names}


def _restored(arrays: Arrays, side: str, dtypes: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: arrays[f"{side}.{name}"] for name in dtypes}
    # Mapped counts stay narrow: widening them would read, and hold, all of them.
    narrow_ones = ("counts_DLE", "token_counts_VLE")
    return {
        name: array
        if name in narrow_ones and not array.flags.writeable
        else array.astype(dtypes[name], copy=False)
        for name, array in found.items()
    }


def _blocks(arrays: Arrays, side: str) -> NDArray[np.int64] | None:
    known_D = arrays.get(f"{side}.block_documents_D")
    return None if known_D is None else known_D.astype(np.int64)


def narrow(array: NDArray[Any]) -> NDArray[Any]:
    """Integers in the narrowest type that holds them. Raises TypeError for Python objects."""
    if array.dtype.hasobject:
        raise TypeError("Arrays of Python objects cannot be saved without pickle.")
    if array.dtype.kind not in "iu" or array.size == 0:
        return array
    low, high = int(array.min()), int(array.max())
    for dtype in (np.int8, np.int16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return array.astype(dtype)
    return array
