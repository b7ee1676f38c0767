"""Figures, tables and sentences of causal evidence, from results as a job left them.

Loads no torch. Effects are in nats per token of the right answer, up is worse, so that orange means
harm to the forget group as it means use by the forget set on the other maps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from app import charts, findings, state, wording
from app.theme import Palette, palette
from trace_engine.causal.agreement import Agreement
from trace_engine.causal.paired import Effect
from trace_engine.causal.rerouted_results import Rerouted
from trace_engine.causal.results import HARMS, Ablation, CellEffect, Scan
from trace_engine.config import Cell
from trace_engine.spelling import number

MEASURES: dict[str, str] = {
    "specific": "Forget beyond utility",
    "forget": "Forget",
    "utility": "Utility",
}
GROUP_NOTE = (
    "Loss: of the right answer, nats per token; up is worse. Accuracy: McNemar's exact test, "
    "Holm's correction; loss: sign flips, corrected by the largest of all."
)
TOGETHER_NOTE = (
    "Loss: of the right answer, nats per token; up is worse. p: McNemar's exact test of the "
    "accuracy, sign flips of the loss, corrected by Holm's method over all groups and both."
)
TITLES = {
    "overlap": "How far did routing move?",
    "restored": "Do the old routers bring it back?",
    "forced": "Does forbidding the experts that serve now bring it back?",
    "probing": "Does the hidden state still point to the answer?",
}


def effect_LE(view: state.ProfileView, scan: Scan, measure: str) -> NDArray[Any]:
    """One figure of every measured cell in the profile's layout, NaN elsewhere."""
    values_LE = np.full(view.profile.cell_mask_LE().shape, np.nan)
    for cell in scan.cells:
        row = view.profile.site_of(cell.layer)
        values_LE[row, cell.expert] = _figure(cell, measure)
    return values_LE


def _figure(cell: CellEffect, measure: str) -> float:
    if measure == "specific":
        return cell.specific.value
    return (cell.forget if measure == "forget" else cell.utility).loss.change


def effect_map(
    view: state.ProfileView, scan: Scan, measure: str, current: Cell | None
) -> charts.MapSpec:
    """The attribution map; a dot marks what the test of the whole map lets stand."""
    values_LE = effect_LE(view, scan, measure)
    row, expert = np.unravel_index(int(np.nanargmax(values_LE)), values_LE.shape)
    hover = [["" for _ in range(values_LE.shape[1])] for _ in range(values_LE.shape[0])]
    dots_LE = np.zeros(values_LE.shape, dtype=bool)
    for cell in scan.cells:
        site = view.profile.site_of(cell.layer)
        hover[site][cell.expert] = hover_text(cell)
        dots_LE[site, cell.expert] = _stands(cell, measure)
    name = state.cell_name(Cell(view.profile.layers[int(row)], int(expert)))
    harmed = {"specific": "forget beyond utility", "forget": "forget", "utility": "utility"}
    return charts.MapSpec(
        values_LE=values_LE,
        layers=view.profile.layers,
        kind="effect",
        title=f"Ablation: without {name}, {harmed[measure]} loses most "
        f"({values_LE[row, expert]:+.3f} nats/token)",
        limit=charts.symmetric_limit(values_LE),
        hover_LE=hover,
        significant_LE=dots_LE,
        selected=findings.selected_cells(view),
        current=current,
    )


def _stands(cell: CellEffect, measure: str) -> bool:
    if measure == "specific":
        low, high = cell.specific.low, cell.specific.high
        apart = low is not None and high is not None and (low > 0 or high < 0)
        return apart and cell.forget.loss.p_corrected < findings.SIGNIFICANT
    effect = cell.forget if measure == "forget" else cell.utility
    return effect.loss.p_corrected < findings.SIGNIFICANT


def hover_text(cell: CellEffect) -> str:
    """One cell in a few lines."""
    forget, utility = cell.forget, cell.utility
    return (
        f"<b>{state.cell_name(cell.cell)}</b>, reached by {wording.count(cell.tokens)} tokens<br>"
        f"forget loss {number(forget.loss.change, '+.4f')} nats/token, corrected p "
        f"{forget.loss.p_corrected:.2g}<br>utility loss {number(utility.loss.change, '+.4f')}<br>"
        f"accuracy: forget {forget.accuracy.before:.2f} → {forget.accuracy.after:.2f}, utility "
        f"{utility.accuracy.before:.2f} → {utility.accuracy.after:.2f}<br>"
        f"{cell.band.as_much} of {cell.band.n} experts nearest in load do as much"
    )


def cell_sentence(cell: CellEffect, scan: Scan) -> str:
    """What hangs on one expert."""
    name = state.cell_name(cell.cell)
    if cell.tokens == 0:
        return f"No token of the questions reaches {name}, so nothing hangs on it here: exactly 0."
    specific = cell.specific
    forget, utility, beyond = (
        number(value, "+.4f")
        for value in (cell.forget.loss.change, cell.utility.loss.change, specific.value)
    )
    return (
        f"Without {name} the right answers on {scan.forget_category} lose {forget} nats/token "
        f"(n = {cell.forget.n}, corrected p = {cell.forget.loss.p_corrected:.2g}), everything else "
        f"{utility} (n = {cell.utility.n}): {beyond}{_bounds(specific.low, specific.high, 4)} "
        f"beyond. {cell.band.as_much} of the {cell.band.n} experts nearest in load do as much."
    )


def disagreement_table(found: Agreement, rows: int = 12) -> pd.DataFrame:
    """The cells whose ranks differ most."""
    return pd.DataFrame(
        [
            {
                "expert": state.cell_name(cell.cell),
                "gap (pp)": 100 * cell.gap,
                "gap rank": cell.gap_rank,
                "effect (nats)": cell.harm,
                "effect rank": cell.harm_rank,
            }
            for cell in found.cells[:rows]
        ]
    )


def agreement_figure(found: Agreement, colours: Palette | None = None) -> Any:
    """Every cell by activation and by ablation."""
    import plotly.graph_objects as go

    colours = colours or palette()
    figure = go.Figure(
        go.Scatter(
            x=[100 * cell.gap for cell in found.cells],
            y=[cell.harm for cell in found.cells],
            mode="markers",
            marker={
                "size": 7,
                "color": colours.retain,
                "opacity": 0.75,
                "line": {"width": 0.5, "color": colours.background},
            },
            text=[state.cell_name(cell.cell) for cell in found.cells],
            hovertemplate="%{text}: gap %{x:+.1f} pp, effect %{y:+.4f} nats/token<extra></extra>",
        )
    )
    heading = f"Activation and ablation: rank correlation {found.correlation.value:.2f}"
    figure.update_layout(
        title=charts.title(heading),
        height=360,
        margin={"l": 60, "r": 8, "t": 66, "b": 52},
        xaxis={"title": {"text": "activation gap, forget − retain (pp)"}, "fixedrange": True},
        yaxis={"title": {"text": "ablation effect (nats/token)"}, "fixedrange": True},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        dragmode=False,
        showlegend=False,
        modebar=charts.modebar(colours),
    )
    return figure


def effects_table(effects: tuple[Effect, ...]) -> pd.DataFrame:
    """One line a group."""
    return pd.DataFrame(
        [
            {
                "group": effect.group,
                "n": effect.n,
                "accuracy": f"{effect.accuracy.before:.3f} → {effect.accuracy.after:.3f}",
                "change": number(effect.accuracy.change, "+.3f")
                + _bounds(effect.accuracy.low, effect.accuracy.high),
                "corrected p": effect.accuracy.p_corrected,
                "loss change": number(effect.loss.change, "+.4f")
                + _bounds(effect.loss.low, effect.loss.high, 4),
                "loss, corrected p": effect.loss.p_corrected,
            }
            for effect in effects
        ]
    )


def band_table(found: Ablation) -> pd.DataFrame:
    """The set beside the random sets, one line a figure."""
    return pd.DataFrame(
        [
            {
                "harm": HARMS[name],
                "this set": band.value,
                "random, 2.5 %": band.low,
                "random, 97.5 %": band.high,
                "at least as much": f"{band.as_much} of {band.n}",
                "p": band.p,
            }
            for name in HARMS
            if (band := found.bands.get(name)) is not None
        ]
    )


def order_table(found: Ablation) -> pd.DataFrame:
    """What is left after every step."""
    steps = () if found.order is None else found.order.steps
    return pd.DataFrame(
        [
            {
                "out": state.cell_name(step.cell),
                "forget accuracy": step.forget.accuracy.after,
                "forget loss": step.forget.loss.after,
                "utility accuracy": step.utility.accuracy.after,
                "utility loss": step.utility.loss.after,
            }
            for step in steps
        ]
    )


def overlap_table(found: Rerouted) -> pd.DataFrame:
    """Share of their experts that tokens kept, a line a layer, in percent."""
    return pd.DataFrame(
        [
            {"layer": f"layer {row.layer}"}
            | {
                f"{side}{end}": None if value is None else 100 * value
                for side, estimate in (("forget", row.forget), ("utility", row.utility))
                for end, value in (
                    ("", estimate.value),
                    ("_low", estimate.low),
                    ("_high", estimate.high),
                )
            }
            for row in found.overlap.layers
        ]
    )


def probe_table(found: Rerouted) -> pd.DataFrame:
    """The probe's accuracy a layer: old model, new model, reference, shuffled answers."""
    return pd.DataFrame(
        [
            {
                "layer": row.layer,
                "n": row.after.n,
                "old model": _estimate(row.before),
                "new model": _estimate(row.after),
                "reference": "no reference" if row.reference is None else _estimate(row.reference),
                "shuffled answers": row.shuffled,
                "shuffled, 95 %": row.shuffled_high,
            }
            for row in found.probing.layers
        ]
    )


def _estimate(estimate: Any) -> str:
    low, high = estimate.low, estimate.high
    bounds = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{estimate.value:.3f}{bounds}"


def _bounds(low: float | None, high: float | None, digits: int = 3) -> str:
    if low is None or high is None:
        return ""
    return f" [{number(low, f'+.{digits}f')}, {number(high, f'+.{digits}f')}]"
