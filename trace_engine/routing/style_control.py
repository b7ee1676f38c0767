"""The style control: how much of the largest gaps remains against a second retain set.

Text of another style takes other experts whatever it is about, so a map against it says little
about the subject. The second set is written like the forget set; the same cells are read from its
map. Accepted cost: a second profile, and a figure about a few cells only.
"""

from typing import TYPE_CHECKING

import numpy as np

from trace_engine.errors import InputError
from trace_engine.routing.mismatch_map import Mismatch

if TYPE_CHECKING:
    import pandas as pd

MOST_CELLS = 6


def same_style_gaps(
    found: Mismatch, same_style: Mismatch, most: int = MOST_CELLS
) -> "pd.DataFrame":
    """The `most` cells with the largest gaps in `found`, and their gaps in `same_style`.

    One row per cell, largest first: layer, expert, then `gap` and `same_style`, each with `_low`
    and `_high` (95 % interval), all as shares. Ties break by (layer, expert). Raises InputError
    when the two maps are not of the same sites and experts.
    """
    import pandas as pd

    if (found.layers, found.num_experts_L) != (same_style.layers, same_style.num_experts_L):
        raise InputError(
            "The two maps are of models with other layers or experts, so their cells cannot be "
            "compared. Profile both retain sets with one model."
        )
    exists_LE = np.arange(found.forget.shape[1]) < np.array(found.num_experts_L)[:, None]
    gap_LE = np.where(exists_LE, found.difference, -np.inf)
    largest = np.argsort(-gap_LE, axis=None, kind="stable")[: min(most, int(exists_LE.sum()))]
    rows, experts = np.unravel_index(largest, gap_LE.shape)
    columns = {"layer": np.array(found.layers)[rows], "expert": experts}
    for name, numbers in (("gap", found), ("same_style", same_style)):
        columns[name] = numbers.difference[rows, experts]
        columns[f"{name}_low"] = numbers.low[rows, experts]
        columns[f"{name}_high"] = numbers.high[rows, experts]
    return pd.DataFrame(columns)


def gap_kept(table: "pd.DataFrame") -> float:
    """Share of the summed gap of a `same_style_gaps` that remains in the same style.

    Raises InputError when there is no gap to keep.
    """
    total = float(table["gap"].sum())
    if total <= 0:
        raise InputError(
            "The forget set uses no expert more than the retain set does, so there is no gap to "
            "compare with text of the same style."
        )
    return float(table["same_style"].sum()) / total
