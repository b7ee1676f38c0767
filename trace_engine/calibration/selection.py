"""Forget-critical experts: which cells the forget set uses more than the retain set does.

Scores, scopes and the floor of method.md section 2, then additions and removals by hand, which stay
recognisable as such. Accepted trade-off: selection reads the full counts only; uncertainty is shown
beside it (`mismatch`), never used to drop a cell unasked.

Dims: L MoE sites, E experts (largest over sites), C listed cells.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trace_engine.calibration.activity import Bools
from trace_engine.calibration.ranking import choose, scores, standard_errors
from trace_engine.config import Cell, SelectionConfig
from trace_engine.errors import CalibrationError
from trace_engine.routing import Layout, Mismatch, Profile, side_statistic, uniform_share
from trace_engine.spelling import number

_UNCERTAINTY = ("low", "high", "p_max", "q_bh")


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """The chosen cells, in (layer, expert) order, and how they came to be chosen."""

    cells: tuple[Cell, ...]
    table: pd.DataFrame
    """One row per chosen cell: layer, expert, forget, retain, score, origin (rule | added); with
    `mismatch` given also low, high (interval of the gap), p_max and q_bh."""
    removed: tuple[Cell, ...]
    """Cells that the rule chose and a hand took out."""
    candidates: pd.DataFrame
    """One row per cell of the chosen layers: layer, expert, forget, retain, score, eligible
    (passes the floor), selected, origin (rule | added | removed | "")."""
    scope: str
    score: str
    statistic: str
    gap_share: float
    """Share of the summed positive difference, over the chosen layers, that the cells hold."""
    why_empty: str
    """Why there is no cell, in a sentence; empty text when there is one."""
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; a score that is not finite becomes None."""
        rows = [
            {name: _jsonable(value) for name, value in row.items()}
            for row in self.table.to_dict(orient="records")
        ]
        return {
            "cells": [list(cell) for cell in self.cells],
            "table": rows,
            "removed": [list(cell) for cell in self.removed],
            "scope": self.scope,
            "score": self.score,
            "statistic": self.statistic,
            "gap_share": self.gap_share,
            "why_empty": self.why_empty,
            "notes": list(self.notes),
        }


def select_experts(
    profile: Profile, config: SelectionConfig, mismatch: Mismatch | None = None
) -> Selection:
    """Choose forget-critical cells (method.md section 2). An empty choice is a value: w = 1.

    `mismatch` only adds its uncertainty to the tables, where it is of the same statistic. Raises
    InputError for a layer or an expert that does not exist, CalibrationError for a top-k larger
    than there are experts, a cell both added and removed, another model's map, or `z` on fewer
    than two documents a side.
    """
    sites = check_selection(profile.layout, config)
    _check_documents(profile, config)
    forget_LE = side_statistic(profile.forget, config.statistic)
    retain_LE = side_statistic(profile.retain, config.statistic)
    error_LE = np.zeros_like(forget_LE)
    if config.score == "z":
        sides = (profile.forget, profile.retain)
        error_LE = np.hypot(*(standard_errors(side, config.statistic) for side in sides))
    epsilon = 0.5 / min(profile.forget.tokens, profile.retain.tokens)
    score_LE = scores(config.score, forget_LE, retain_LE, error_LE, epsilon)
    considered_LE = profile.cell_mask_LE()
    considered_LE[[site for site in range(len(profile.layers)) if site not in sites]] = False
    eligible_LE = considered_LE.copy()
    if config.floor:
        eligible_LE &= (forget_LE > retain_LE) & (
            forget_LE > uniform_share(profile, config.statistic)
        )
    gain_LE = np.where(considered_LE, np.maximum(forget_LE - retain_LE, 0.0), 0.0)
    origin_LE = np.where(choose(config, score_LE, eligible_LE, gain_LE), "rule", "").astype(object)
    removed, notes = _apply_hand(profile, config, origin_LE)
    final_LE = (origin_LE == "rule") | (origin_LE == "added")
    candidates = _listing(
        profile,
        considered_LE | final_LE,
        {
            "forget": forget_LE,
            "retain": retain_LE,
            "score": score_LE,
            "eligible": eligible_LE,
            "selected": final_LE,
            "origin": origin_LE,
        },
        mismatch,
        config.statistic,
    )
    table = candidates[candidates["selected"]].drop(columns=["eligible", "selected"])
    pairs = zip(table["layer"].tolist(), table["expert"].tolist(), strict=True)
    cells = tuple(Cell(layer, expert) for layer, expert in pairs)
    found = int(((origin_LE == "rule") | (origin_LE == "removed")).sum())
    wanted = {"per_layer": config.top_k * len(sites), "global": config.top_k}.get(config.scope, 0)
    if 0 < found < wanted:
        notes.append(f"The rule found {found} of {wanted} cells: the others do not pass the floor.")
    total = float(gain_LE.sum())
    return Selection(
        cells=cells,
        table=table.reset_index(drop=True),
        removed=tuple(removed),
        candidates=candidates,
        scope=config.scope,
        score=config.score,
        statistic=config.statistic,
        gap_share=float(gain_LE[final_LE].sum()) / total if total else 0.0,
        why_empty="" if cells else _why_empty(config, eligible_LE, removed),
        notes=tuple(notes),
    )


def check_selection(layout: Layout, config: SelectionConfig) -> list[int]:
    """Refuse what no profile of such a model could satisfy; returns the rows to choose from.

    Raises InputError for a layer or an expert that does not exist, CalibrationError for a top-k
    larger than there are experts, or a cell both added and removed.
    """
    sites = list(range(len(layout.layers)))
    if config.layers:
        sites = sorted({layout.site_of(layer) for layer in config.layers})
    for cell in (*config.add, *config.remove):
        layout.check_cell(*cell)
    both = sorted(set(config.add) & set(config.remove))
    if both:
        raise CalibrationError(
            f"Layer {both[0].layer}, expert {both[0].expert} is both added and removed by hand. "
            "Keep one."
        )
    experts = [layout.num_experts_L[site] for site in sites]
    smallest = min(range(len(sites)), key=experts.__getitem__)
    if config.scope == "per_layer" and config.top_k > experts[smallest]:
        raise CalibrationError(
            f"Top-k {config.top_k} is larger than the {experts[smallest]} experts of layer "
            f"{layout.layers[sites[smallest]]}. Choose at most {experts[smallest]}."
        )
    if config.scope == "global" and config.top_k > sum(experts):
        raise CalibrationError(
            f"Top-k {config.top_k} is larger than the {sum(experts)} experts of the chosen layers. "
            f"Choose at most {sum(experts)}."
        )
    return sites


def _check_documents(profile: Profile, config: SelectionConfig) -> None:
    documents = min(int((side.tokens_D > 0).sum()) for side in (profile.forget, profile.retain))
    if config.score == "z" and documents < 2:
        raise CalibrationError(
            "The score `z` needs at least two documents on each side, to know how much documents "
            "differ. Use `difference`, or add documents."
        )


def _apply_hand(
    profile: Profile, config: SelectionConfig, origin_LE: NDArray[np.object_]
) -> tuple[list[Cell], list[str]]:
    """Mark additions and removals in place; the rule's cells that were removed, and notes."""
    removed, notes = [], []
    for cell in sorted(set(config.add)):
        site = profile.site_of(cell.layer)
        if origin_LE[site, cell.expert] == "":
            origin_LE[site, cell.expert] = "added"
    for cell in sorted(set(config.remove)):
        site = profile.site_of(cell.layer)
        if origin_LE[site, cell.expert] == "rule":
            origin_LE[site, cell.expert] = "removed"
            removed.append(cell)
        else:
            notes.append(
                f"Layer {cell.layer}, expert {cell.expert} was to be removed, but the rule does "
                "not choose it."
            )
    return removed, notes


def _listing(
    profile: Profile,
    shown_LE: Bools,
    arrays: dict[str, NDArray[Any]],
    mismatch: Mismatch | None,
    statistic: str,
) -> pd.DataFrame:
    if mismatch is not None and mismatch.layers != profile.layers:
        raise CalibrationError(
            f"The mismatch map is of layers {mismatch.layers}, and the profile of layers "
            f"{profile.layers}. Compute the map from this profile."
        )
    if mismatch is not None and mismatch.statistic == statistic:
        arrays |= {name: getattr(mismatch, name) for name in _UNCERTAINTY}
    site_C, expert_C = np.nonzero(shown_LE)
    frame = pd.DataFrame({"layer": np.array(profile.layers)[site_C], "expert": expert_C})
    return frame.assign(**{name: array[site_C, expert_C] for name, array in arrays.items()})


def _why_empty(config: SelectionConfig, eligible_LE: Bools, removed: list[Cell]) -> str:
    if removed:
        reason = f"all {len(removed)} cells that the rule chose were removed by hand"
    elif not eligible_LE.any():
        reason = (
            "no cell's forget side exceeds both its retain side and the uniform share (turn the "
            "floor off, or add cells by hand)"
        )
    elif config.scope == "threshold":
        reason = f"no cell's {config.score} reaches the threshold {number(config.threshold)}"
    else:
        reason = "no cell has a positive gap"
    return f"No expert is selected: {reason}. Every retain token then has weight 1."


def _jsonable(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value
