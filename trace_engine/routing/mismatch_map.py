"""The map itself: gap, ratio, uncertainty, tests and controls of every cell, as arrays and as a
table.

It is saved beside its profile and repeats the profile's digest, so that a map is never shown over
other counts. Accepted cost: saving a profile again removes its maps.

Dims: L MoE sites, E experts. Array cells of experts that a site does not have hold the values of a
cell without tokens.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.disk import parse_json, write_bytes
from trace_engine.errors import InputError
from trace_engine.formats import FIELD, require_known
from trace_engine.regular import read_bytes
from trace_engine.routing.statistics import check_statistic
from trace_engine.routing.storage import (
    DAMAGE,
    pack_arrays,
    profile_digest,
    unpack_arrays,
)

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

SCHEMA = 1
CELL_COLUMNS = (
    "forget",
    "retain",
    "difference",
    "low",
    "high",
    "standard_error",
    "z",
    "ratio",
    "ratio_low",
    "ratio_high",
    "p_cell",
    "p_max",
    "q_bh",
    "null_difference",
    "null_ratio_low",
    "matched_difference",
    "matched_ratio",
)


@dataclass(frozen=True, slots=True, eq=False)
class Mismatch:
    """Forget against retain for every cell; arrays are (L, E) float64 and hold no NaN."""

    statistic: str
    layers: tuple[int, ...]
    num_experts_L: tuple[int, ...]
    forget: Array
    retain: Array
    difference: Array
    """forget - retain."""
    low: Array
    """Lower end of the 95 % interval of the difference: cluster bootstrap over documents,
    percentile."""
    high: Array
    standard_error: Array
    """Document-level standard error of the difference."""
    z: Array
    """Difference over its standard error (floored at `epsilon`)."""
    ratio: Array
    """(forget + epsilon) / (retain + epsilon)."""
    ratio_low: Array
    ratio_high: Array
    p_cell: Array
    """Two-sided permutation p of the cell by itself."""
    p_max: Array
    """The same against the largest |z| of all cells: family-wise error."""
    q_bh: Array
    """Benjamini-Hochberg over `p_cell`: false discovery rate."""
    null_difference: Array
    """Gap of one random split of the union, same sizes: what no difference looks like."""
    null_ratio_low: Array
    """`ratio_low` of that random split."""
    matched_difference: Array
    """Gap left when retain tokens are re-drawn to the forget side's token-id distribution."""
    matched_ratio: Array
    matched_coverage: float
    """Share of forget tokens whose id is also seen on the retain side: what the matched columns
    cover."""
    epsilon: float
    """Half a counted token of the smaller side, added in ratios and as the floor of a standard
    error."""
    documents_forget: int
    documents_retain: int
    tokens_forget: int
    tokens_retain: int
    permutations: int
    bootstrap: int
    seed: int
    notes: tuple[str, ...]
    """What limits these numbers, in words; shown with the map."""
    blocks_forget: int = 0
    """Blocks of documents that were resampled in the documents' place; 0 where documents were."""
    blocks_retain: int = 0

    @property
    def log_ratio(self) -> Array:
        """log2 of `ratio`, shape (L, E)."""
        return np.asarray(np.log2(self.ratio))

    def table(self) -> "pd.DataFrame":
        """One row per existing cell: layer, expert, every column of `CELL_COLUMNS`, log_ratio."""
        import pandas as pd

        rows, experts = np.nonzero(self._exists_LE())
        columns: dict[str, Any] = {"layer": np.array(self.layers)[rows], "expert": experts}
        columns |= {name: getattr(self, name)[rows, experts] for name in CELL_COLUMNS}
        columns["log_ratio"] = self.log_ratio[rows, experts]
        return pd.DataFrame(columns)

    def save(self, directory: str | Path) -> None:
        """Write the map beside the saved profile it was computed from. Raises InputError."""
        path = Path(directory)
        head: dict[str, Any] = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in CELL_COLUMNS
        }
        head |= {"schema": SCHEMA, "profile": profile_digest(path)}
        text = json.dumps(head, ensure_ascii=False, allow_nan=False)
        arrays = {name: getattr(self, name) for name in CELL_COLUMNS}
        arrays["head"] = np.frombuffer(text.encode(), dtype=np.uint8)
        try:
            write_bytes(path / mismatch_name(self.statistic), pack_arrays(arrays))
        except OSError as error:
            raise InputError(f"{path}: the map could not be saved ({error.strerror}).") from None

    @classmethod
    def load(cls, directory: str | Path, statistic: str = "frequency") -> "Mismatch":
        """Read a profile's saved map. Raises InputError when missing, damaged or of another
        profile."""
        path = Path(directory) / mismatch_name(statistic)
        wanted = profile_digest(path.parent)
        try:
            arrays: dict[str, Any] = unpack_arrays(read_bytes(path))
            head = parse_json(arrays.pop("head").tobytes())
            schema, profile = head.pop("schema"), head.pop("profile")
            require_known({FIELD: schema}, SCHEMA, f"{path}: the map", InputError)
            if schema != SCHEMA:
                raise InputError(f"{path}: map schema {schema!r}, expected {SCHEMA}.")
            if profile != wanted:
                raise InputError(f"{path}: this map belongs to another profile. Compute it again.")
            head |= {name: tuple(head[name]) for name in ("layers", "num_experts_L", "notes")}
            return cls(**head, **arrays)
        except FileNotFoundError:
            raise InputError(
                f"{path.parent}: this profile has no saved {statistic} map; compute it with "
                "`mismatch`."
            ) from None
        except InputError:
            raise
        except (*DAMAGE, TypeError) as error:
            raise InputError(
                f"{path}: the saved map is damaged ({error}). Compute it again; nothing was lost."
            ) from None

    def _exists_LE(self) -> NDArray[np.bool_]:
        return np.arange(self.forget.shape[1])[None, :] < np.array(self.num_experts_L)[:, None]


def load_mismatch(directory: str | Path, statistic: str = "frequency") -> Mismatch:
    """The saved map of a profile directory: `Mismatch.load`, for whoever holds only a path."""
    return Mismatch.load(directory, statistic)


def mismatch_name(statistic: str) -> str:
    """File name of a statistic's map inside a profile."""
    check_statistic(statistic)
    return "mismatch.npz" if statistic == "frequency" else f"mismatch-{statistic}.npz"
