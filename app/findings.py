"""What a profile says, in numbers and sentences: the facts of a cell, hover texts, selected cells.

Pure functions of a `ProfileView`; pages lay them out. Every sentence carries its interval and
counts, and none claims more than activation. Accepted trade-off: a cell is called significant at
the family-wise 5 % level, one fixed level for the whole app.
"""

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app import state, wording
from trace_engine.calibration import Selection, select_experts
from trace_engine.config import Cell, SelectionConfig
from trace_engine.errors import TraceError

SIGNIFICANT = 0.05
"""Family-wise level of the dots: studentised permutation over documents, maximum over cells."""
DOTS = "p < 0.05 after correction for all cells (max statistic over document permutations)"


@dataclass(frozen=True, slots=True)
class CellFacts:
    """One cell's numbers; shares lie in [0, 1], counts are tokens."""

    cell: Cell
    forget: float
    retain: float
    difference: float
    low: float
    high: float
    ratio: float
    ratio_low: float
    ratio_high: float
    p: float
    permutations: int
    forget_count: int
    retain_count: int
    forget_tokens: int
    retain_tokens: int
    forget_documents: int
    retain_documents: int

    @property
    def significant(self) -> bool:
        """Whether the gap survives correction for all cells."""
        return self.p < SIGNIFICANT


def cell_facts(view: state.ProfileView, cell: Cell) -> CellFacts:
    """The numbers of one cell. Raises InputError when the profile has no such cell."""
    profile, numbers = view.profile, view.mismatch
    at = (profile.check_cell(cell.layer, cell.expert), cell.expert)
    return CellFacts(
        cell=cell,
        forget=float(numbers.forget[at]),
        retain=float(numbers.retain[at]),
        difference=float(numbers.difference[at]),
        low=float(numbers.low[at]),
        high=float(numbers.high[at]),
        ratio=float(numbers.ratio[at]),
        ratio_low=float(numbers.ratio_low[at]),
        ratio_high=float(numbers.ratio_high[at]),
        p=float(numbers.p_max[at]),
        permutations=numbers.permutations,
        forget_count=int(profile.forget.counts_DLE[:, at[0], at[1]].sum()),
        retain_count=int(profile.retain.counts_DLE[:, at[0], at[1]].sum()),
        forget_tokens=profile.forget.tokens,
        retain_tokens=profile.retain.tokens,
        forget_documents=profile.forget.documents,
        retain_documents=profile.retain.documents,
    )


def significant_LE(view: state.ProfileView) -> NDArray[np.bool_]:
    """Cells whose gap survives correction for all cells, shape (L, E)."""
    significant: NDArray[np.bool_] = view.mismatch.p_max < SIGNIFICANT
    return significant & view.profile.cell_mask_LE()


def hover_LE(view: state.ProfileView) -> list[list[str]]:
    """Hover text of every cell: shares with counts, gap with interval, ratio, p, documents."""
    profile, numbers = view.profile, view.mismatch
    forget_LE = profile.forget.counts_DLE.sum(axis=0)
    retain_LE = profile.retain.counts_DLE.sum(axis=0)
    names = [html.escape(name, quote=False) for name in (view.forget_name, view.retain_name)]
    documents = f"{profile.forget.documents} + {profile.retain.documents} documents"
    of_forget, of_retain = (wording.count(side.tokens) for side in (profile.forget, profile.retain))
    rows = []
    for row, layer in enumerate(profile.layers):
        texts = []
        for expert in range(forget_LE.shape[1]):
            at = (row, expert)
            texts.append(
                f"<b>layer {layer}, expert {expert}</b><br>"
                f"{names[0]}: {wording.percent(numbers.forget[at])} "
                f"({wording.count(int(forget_LE[at]))} of {of_forget} tokens)<br>"
                f"{names[1]}: {wording.percent(numbers.retain[at])} "
                f"({wording.count(int(retain_LE[at]))} of {of_retain} tokens)<br>"
                f"gap {wording.points(numbers.difference[at])}, "
                f"{wording.interval(numbers.low[at], numbers.high[at])}<br>"
                f"ratio {wording.ratio(numbers.ratio[at])}, "
                f"{wording.interval(numbers.ratio_low[at], numbers.ratio_high[at], scale=1)}<br>"
                f"{wording.p_value(float(numbers.p_max[at]), numbers.permutations)} of all cells; "
                f"{documents}"
            )
        rows.append(texts)
    return rows


def selection(view: state.ProfileView, config: SelectionConfig) -> Selection | None:
    """The experts that the settings select, or None (and a notice) when they are refused."""
    try:
        return select_experts(view.profile, config, view.mismatch)
    except TraceError as error:
        state.notice(f"Nothing is selected: {error}")
        return None


def selected_cells(view: state.ProfileView) -> tuple[Cell, ...]:
    """The cells that the current settings select; none when they are refused."""
    chosen = selection(view, state.selection_config())
    return () if chosen is None else tuple(chosen.cells)


def model_name(meta: dict[str, Any]) -> str:
    """The model's source as the profile recorded it."""
    model = meta.get("model")
    source = model.get("source") if isinstance(model, dict) else model
    return wording.MODEL_NAMES.get(str(source), str(source)) if source else "not recorded"


def headline(facts: CellFacts) -> str:
    """The finding as a figure title."""
    name = state.cell_name(facts.cell)
    if not facts.significant:
        return f"Largest gap at {name}, within sampling error"
    if facts.retain_count == 0:
        return f"Only forget text uses {name}"
    return f"Forget text uses {name} {wording.ratio(facts.ratio)} as much"


def sentence(facts: CellFacts) -> str:
    """The finding in words, with counts, interval and p."""
    return (
        f"{wording.percent(facts.forget)} of forget tokens go to layer {facts.cell.layer}, expert "
        f"{facts.cell.expert}, against {wording.percent(facts.retain)} of retain tokens: "
        f"{wording.points(facts.difference)} ({wording.interval(facts.low, facts.high)}; "
        f"{wording.p_value(facts.p, facts.permutations)} over all cells)."
    )
