"""A hub model in steps: what the hub lists, the small files, the weights' headers, the weights.

Each step may end in a refusal, so that gigabytes are never fetched for a model that cannot be used.
Only top-level files count: `original/*`, `consolidated*` and the like repeat the weights in other
forms. Trade-off: a shard's header is a request of its own, 0.1 MB each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,  # that of whichever HTTP library the hub's client uses
    LocalEntryNotFoundError,
    NotASafetensorsRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)

from trace_engine.errors import ModelError

SMALL = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""What is brought before the weights: configuration, index of the weights, tokenizer."""
SUBFOLDERS = ("*/*",)
_AT_ONCE = 8

Tensors = tuple[tuple[str, tuple[int, ...], str], ...]
"""Name, shape and precision (safetensors' word) of each tensor of a file."""


@dataclass(frozen=True, slots=True)
class Listed:
    """What the hub says of a file; None where it does not."""

    size: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """Top-level files of a commit."""

    commit: str | None
    files: dict[str, Listed]


def listing(source: str, revision: str | None) -> Listing | None:
    """The hub's list; None without a network: what an earlier visit left in the cache may do.

    Raises ModelError for a model or revision that is unknown, and for one that is gated.
    """
    with _asked(source, revision):
        try:
            info = HfApi().model_info(source, revision=revision, files_metadata=True)
        except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError):
            raise
        except (OfflineModeIsEnabled, HTTPError, OSError):
            return None
    files = {
        item.rfilename: Listed(item.size, item.lfs.sha256 if item.lfs is not None else None)
        for item in info.siblings or []
        if "/" not in item.rfilename
    }
    return Listing(info.sha, files)


def small_files(source: str, revision: str | None) -> Path:
    """Bring configuration and tokenizer; the cache's folder, named by the commit."""
    with _asked(source, revision):
        return Path(
            snapshot_download(
                source,
                revision=revision,
                allow_patterns=list(SMALL),
                ignore_patterns=list(SUBFOLDERS),
            )
        )


def weights(source: str, commit: str, names: Sequence[str]) -> None:
    """Bring these files of weights into the same folder."""
    with _asked(source, commit):
        snapshot_download(
            source,
            revision=commit,
            allow_patterns=sorted(names),
            ignore_patterns=list(SUBFOLDERS),
        )


@lru_cache(maxsize=4)
def headers(source: str, commit: str, names: tuple[str, ...]) -> dict[str, Tensors]:
    """The headers of weights that were not fetched, by file."""

    def header(name: str) -> Tensors:
        found = HfApi().parse_safetensors_file_metadata(source, name, revision=commit)
        return tuple((key, tuple(t.shape), str(t.dtype)) for key, t in found.tensors.items())

    with _asked(source, commit), ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(names, pool.map(header, names), strict=True))


def offline(source: str) -> ModelError:
    return ModelError(
        f"{source} is not a folder here, and the hub cannot be reached (offline). Download the "
        "model where there is a network and give its folder."
    )


@contextmanager
def _asked(source: str, revision: str | None) -> Iterator[None]:
    """Turn the hub's answers into sentences (ModelError)."""
    try:
        yield
    except GatedRepoError:
        raise ModelError(
            f"{source} is gated on the hub: accept its terms there and log in with `hf auth "
            "login`, then try again."
        ) from None
    except RevisionNotFoundError:
        raise ModelError(f"{source} has no revision {revision!r} on the hub.") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"There is neither a folder {source} here nor a public model of that name on the hub."
        ) from None
    except HFValidationError as error:
        raise ModelError(f"{source} is neither a folder nor a valid hub id ({error}).") from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled):
        raise offline(source) from None
    except (SafetensorsParsingError, NotASafetensorsRepoError) as error:
        raise ModelError(f"{source}: a file of weights on the hub is damaged ({error}).") from None
    except (HTTPError, EntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"{source} could not be fetched from the hub: {reason}") from None
