"""The three traps of teaching mode, computed from the open profile: small n, token identity,
changed scale.

Pure functions of a profile and its mismatch. Accepted trade-off: the resamples are drawn from the
profile's own documents, so they show sampling scatter, not what other documents would show.

Dims: D documents, L MoE sites, E experts.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from app import charts, wording
from app.state import ProfileView, cell_name
from app.theme import Palette, palette
from trace_engine.config import Cell
from trace_engine.routing import Profile, RoutingCounts

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scatter:
    """What many small draws say about the strongest cell."""

    draws: int
    documents: int
    distinct: int
    """How many different cells were strongest in some draw."""
    agree: float
    """Share of draws whose strongest cell is that of the full sets."""
    low: float
    high: float
    """95 % range, over draws, of the full sets' strongest gap."""
    full: float


def _difference_LE(
    profile: Profile, forget_D: NDArray[np.intp], retain_D: NDArray[np.intp]
) -> Floats:
    def share(counts: RoutingCounts, chosen_D: NDArray[np.intp]) -> Floats:
        tokens = max(1, int(counts.tokens_D[chosen_D].sum()))
        return np.asarray(counts.counts_DLE[chosen_D].sum(axis=0) / tokens, dtype=np.float64)

    difference_LE = share(profile.forget, forget_D) - share(profile.retain, retain_D)
    return np.where(profile.cell_mask_LE(), difference_LE, np.nan)


def resampled(profile: Profile, documents: int, draws: int, seed: int) -> list[Floats]:
    """Difference maps (L, E) of `draws` random subsets of so many documents a side (all, if
    fewer).
    """
    rng = np.random.default_rng(seed)
    sizes = [len(side.document_ids) for side in (profile.forget, profile.retain)]
    return [
        _difference_LE(
            profile, *(rng.choice(size, min(documents, size), replace=False) for size in sizes)
        )
        for _ in range(draws)
    ]


def strongest(profile: Profile, difference_LE: Floats) -> Cell:
    """The cell with the largest gap."""
    row, expert = np.unravel_index(int(np.nanargmax(difference_LE)), difference_LE.shape)
    return Cell(profile.layers[int(row)], int(expert))


def scatter(view: ProfileView, documents: int, draws: int, seed: int) -> Scatter:
    """How the strongest cell and its gap scatter over small draws."""
    profile = view.profile
    full_LE = np.where(profile.cell_mask_LE(), view.mismatch.difference, np.nan)
    cell = strongest(profile, full_LE)
    at = (profile.site_of(cell.layer), cell.expert)
    maps = resampled(profile, documents, draws, seed)
    winners = [strongest(profile, difference_LE) for difference_LE in maps]
    low, high = np.quantile([difference_LE[at] for difference_LE in maps], [0.025, 0.975])
    return Scatter(
        draws,
        documents,
        len(set(winners)),
        float(np.mean([winner == cell for winner in winners])),
        float(low),
        float(high),
        float(full_LE[at]),
    )


def small_maps(
    maps_LE: list[Floats],
    titles: list[str],
    layers: tuple[int, ...],
    limits: list[float],
    colours: Palette | None = None,
) -> go.Figure:
    """Small difference maps under each other, each with its own colour limit (percentage
    points).
    """
    colours = colours or palette()
    rows, count = len(layers), len(maps_LE)
    each, gap = rows * max(6, min(20, 240 // rows)), 60
    inside = count * each + (count - 1) * gap
    figure = make_subplots(rows=count, cols=1, subplot_titles=titles, vertical_spacing=gap / inside)
    middle = [sum(axis.domain) / 2 for axis in figure.select_yaxes()]
    for position, (values_LE, limit) in enumerate(zip(maps_LE, limits, strict=True), 1):
        figure.add_trace(
            go.Heatmap(
                z=100 * values_LE,
                y=[str(layer) for layer in layers],
                zmin=-limit,
                zmax=limit,
                zmid=0,
                colorscale=colours.diverging,
                colorbar=_scale_bar(limit, each, middle[position - 1]),
                xgap=1,
                ygap=1,
                hovertemplate="layer %{y}, expert %{x}: %{z:+.1f}"
                + f"{wording.NBSP}pp<extra></extra>",
            ),
            row=position,
            col=1,
        )
    figure.update_yaxes(
        title={"text": "layer", "standoff": 4},
        autorange="reversed",
        showgrid=False,
        zeroline=False,
        type="category",
        automargin=True,
        fixedrange=True,
    )
    figure.update_xaxes(fixedrange=True)
    figure.update_xaxes(title="expert (index in its layer)", row=count, col=1)
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_annotations(font_size=13, x=0, xanchor="left")
    figure.update_layout(
        height=inside + 28 + 52,
        margin={"l": 8, "r": 8, "t": 28, "b": 52},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        dragmode=False,
    )
    return figure


def _scale_bar(limit: float, height: int, middle: float) -> dict[str, Any]:
    """The scale beside one map, as high as the map: its two ends, and 0 where there is room."""
    ends = [-limit, 0.0, limit] if height >= 45 else [-limit, limit]
    return {
        "len": height,
        "lenmode": "pixels",
        "y": middle,
        "yanchor": "middle",
        "ypad": 0,
        "xpad": 6,
        "thickness": 8,
        "outlinewidth": 0,
        "tickvals": ends,
        "ticktext": [
            "0" if end == 0 else f"{wording.number(end, '+.1f')}{wording.NBSP}pp" for end in ends
        ],
    }


def scale_figure(view: ProfileView, colours: Palette | None = None) -> go.Figure:
    """The map twice: full scale, and a scale that ends at a fifth of it."""
    values_LE = np.where(view.profile.cell_mask_LE(), view.mismatch.difference, np.nan)
    limit = 100 * charts.symmetric_limit(values_LE)
    limits = [limit, limit / 5]
    titles = [f"Scale ends at ±{end:.1f}{wording.NBSP}pp" for end in limits]
    return small_maps([values_LE, values_LE], titles, view.profile.layers, limits, colours)


def identity_frame(view: ProfileView, most: int = 8) -> pd.DataFrame:
    """The largest gaps, plain and token-matched: cell, plain, matched (percentage points), kept
    (share).
    """
    numbers, profile = view.mismatch, view.profile
    plain_LE = np.where(profile.cell_mask_LE(), numbers.difference, -np.inf)
    order = np.argsort(-plain_LE, axis=None, kind="stable")[:most]
    lines = []
    for place in order:
        row, expert = (int(part) for part in np.unravel_index(int(place), plain_LE.shape))
        plain = float(numbers.difference[row, expert])
        matched = float(numbers.matched_difference[row, expert])
        if plain > 0:
            lines.append(
                {
                    "cell": cell_name((profile.layers[row], expert)),
                    "plain": 100 * plain,
                    "matched": 100 * matched,
                    "kept": matched / plain,
                }
            )
    return pd.DataFrame(lines, columns=["cell", "plain", "matched", "kept"])
