"""What is selected and what would train, from a profile alone: the map, the parameters, the
sentences.

Pure functions plus one cached fit; no model is opened. Accepted trade-off: parameter counts are
those the profile recorded about its model; a profile that recorded none says so instead of
guessing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from app import charts, findings, maps, state, wording
from trace_engine.calibration import (
    Selection,
    WeightPreview,
    preview_weights,
    select_experts,
    top_experts,
)
from trace_engine.config import (
    Cell,
    SelectionConfig,
    TrainableConfig,
    UnlearnConfig,
    WeightsConfig,
)
from trace_engine.routing import Profile
from trace_engine.trained import trained_parameters

SCOPES = {
    "per_layer": "top-k in each layer",
    "global": "top-k over the model",
    "threshold": "every cell above a score",
    "cumulative": "smallest set holding a share of the gap",
}
RULES = {
    "uniform": "uniform: the unweighted method",
    "mean": "mean of the experts' ratios",
    "max": "largest of the experts' ratios",
    "product": "product of the experts' ratios",
    "additive": "1 + sum of (ratio − 1)",
    "odds": "odds: closes the gap of exactly one expert",
    "exact": "exact: closes all gaps at once",
}
SIMPLE_RULES = ("mean", "max", "product", "additive", "odds")


@st.cache_resource(max_entries=64, show_spinner=False)
def _fitted(
    path: str,
    stamp: int,
    selection: str,
    weights: str,
    max_length: int | None,
    _view: state.ProfileView,
) -> tuple[Selection, WeightPreview]:
    chosen = select_experts(
        _view.profile, SelectionConfig.model_validate_json(selection), _view.mismatch
    )
    return chosen, preview_weights(
        _view.profile, chosen, WeightsConfig.model_validate_json(weights), max_length=max_length
    )


def fitted(
    view: state.ProfileView,
    selection: SelectionConfig,
    weights: WeightsConfig,
    max_length: int | None = None,
) -> tuple[Selection, WeightPreview]:
    """Selected cells and fitted weights, kept per profile and settings.

    `max_length`: tokens of a document that a run would train on; None for all that were profiled.

    Raises TraceError (a sentence) when the settings cannot be met by this profile.
    """
    stamp = (view.path / "profile.json").stat().st_mtime_ns
    return _fitted(
        str(view.path),
        stamp,
        selection.model_dump_json(),
        weights.model_dump_json(),
        max_length,
        view,
    )


def map_spec(
    view: state.ProfileView, cells: Sequence[Cell], current: Cell | None
) -> charts.MapSpec:
    """The difference map in percentage points with the selected cells outlined."""
    difference_LE = 100 * view.mismatch.difference
    return charts.MapSpec(
        values_LE=difference_LE,
        layers=tuple(view.profile.layers),
        kind="difference",
        title=f"{len(cells)} of {total_cells(view)} experts are selected (outlined)",
        limit=charts.symmetric_limit(difference_LE),
        hover_LE=maps.hover(view),
        significant_LE=findings.significant_LE(view),
        selected=tuple(cells),
        current=current,
    )


def total_cells(view: state.ProfileView) -> int:
    """Experts of the model, all MoE layers together."""
    return int(sum(view.profile.num_experts_L))


def training_cells(
    profile: Profile, selected: Sequence[Cell], trainable: TrainableConfig
) -> tuple[Cell, ...]:
    """The experts that would train: the selected ones, or for `top_experts` the profile's own."""
    if trainable.kind == "top_experts":
        return tuple(cell for cell, _ in top_experts(profile, trainable.number))
    return tuple(selected)


def calibration_sentence(config: UnlearnConfig, cells: Sequence[Cell]) -> str:
    """Which experts' retain-side frequency the weights would raise, and by which rule."""
    if config.weights.rule == "uniform":
        return (
            "Nothing: every retain token weighs the same (rule `uniform`, on Selection & weights)."
        )
    if config.control == "random_experts":
        return (
            f"{len(cells)} random experts in place of those selected, by {config.weights.rule} "
            "weights: a control."
        )
    names = ", ".join(state.cell_name(cell) for cell in cells[:12])
    more = f" and {len(cells) - 12} more" if len(cells) > 12 else ""
    shuffled = ", then shuffled over tokens: a control" * (config.control == "shuffled_weights")
    return f"{len(cells)} experts by {config.weights.rule} weights{shuffled}: {names}{more}."


def training_sentence(
    meta: Mapping[str, Any], cells: Sequence[Cell], trainable: TrainableConfig
) -> tuple[str, str]:
    """How many parameters would train: a short figure, and a sentence that says of what.

    `cells`: those that are selected; for `top_experts` those that would train. The figure is "not
    recorded" where an older profile does not tell.
    """
    if trainable.kind == "selected_experts" and not cells:
        return "0", "No expert is selected, so nothing would train: such a run is refused."
    model = meta.get("model")
    model = model if isinstance(model, Mapping) else {}
    number, total = trained_parameters(model, trainable, cells), model.get("parameters")
    what = _what_trains(cells, trainable)
    if number is None:
        return "not recorded", (
            f"What trains: {what}. This profile did not record how many parameters that is; the "
            "run states it before its first step."
        )
    figure = wording.count(number)
    if trainable.kind == "lora":
        added = f" ({wording.percent(number / total)} of the model's)" if total else ""
        return figure, f"{figure} new parameters{added} train: {what}."
    if not total:
        return figure, f"{figure} parameters train: {what}."
    if number == total:
        return figure, f"All {figure} parameters of the model train."
    alone = trainable.kind in ("selected_experts", "top_experts")
    rest = " Everything else stays bitwise unchanged." if alone else ""
    share = f"of {wording.count(total)} parameters ({wording.percent(number / total)})"
    return figure, f"{figure} {share} train: {what}.{rest}"


def _what_trains(cells: Sequence[Cell], trainable: TrainableConfig) -> str:
    kept = " without the routers" if trainable.freeze_routers else ""
    if trainable.kind == "lora":
        return f"LoRA adapters of rank {trainable.lora_rank} on attention and experts"
    if trainable.kind == "layers":
        layers = trainable.layers or tuple(sorted({cell.layer for cell in cells}))
        return f"decoder layers {', '.join(map(str, layers)) or '(none)'}{kept}"
    if trainable.kind == "all":
        return f"the whole model{kept}"
    if trainable.kind == "selected_experts":
        return f"the slices of {len(cells)} selected experts"
    names = ", ".join(state.cell_name(cell) for cell in cells)
    return (
        f"the routers of their layers, and the {len(cells)} experts with the highest gate mass on "
        f"the forget set, whatever is selected ({names})"
    )


def selection_headline(view: state.ProfileView, chosen: Selection) -> str:
    """One sentence on what was selected, with the reason when nothing was."""
    cells = tuple(chosen.cells)
    if not cells:
        return chosen.why_empty
    layers = sorted({cell.layer for cell in cells})
    added = int((chosen.table["origin"] == "added").sum())
    by_hand = f", {added} of them by hand" if added else ""
    return (
        f"{len(cells)} of {total_cells(view)} experts in {len(layers)} of "
        f"{len(view.profile.layers)} MoE layers are selected{by_hand}; "
        f"they hold {wording.percent(chosen.gap_share, 0)} of the summed positive gap."
    )


def selection_table(chosen: Selection) -> pd.DataFrame:
    """The selected cells as the page shows them, frequencies in percent."""
    table = chosen.table
    return pd.DataFrame(
        {
            "layer": table["layer"],
            "expert": table["expert"],
            "forget (%)": 100 * table["forget"],
            "retain (%)": 100 * table["retain"],
            "score": table["score"],
            "chosen by": table["origin"].map({"rule": "rule", "added": "hand"}),
        }
    )


def weights_table(fit: WeightPreview) -> pd.DataFrame:
    """The per-expert effect of the weights as the page shows it, frequencies in percent."""
    table = fit.table
    columns = {
        "forget": "forget (%)",
        "retain": "retain before (%)",
        "target": "target (%)",
        "achieved": "retain after (%)",
        "residual": "residual (pp)",
    }
    shown = table.assign(**{name: 100 * table[name] for name in columns})
    kept = ["layer", "expert", *columns, "uncoverable"]
    return shown[kept].rename(columns=columns)


def side_effect(weighed: WeightPreview) -> str:
    """How far the weights move experts that were not selected: weighting a token moves all its
    experts.
    """
    if weighed.fitted.table.empty:
        return "No other expert moves."
    largest = weighed.cells.loc[~weighed.cells["selected"]]
    if largest.empty:
        return "There is no other expert to move."
    row = largest.iloc[int(largest["change"].abs().to_numpy().argmax())]
    return (
        "Of the experts that were not selected, "
        f"{state.cell_name((int(row['layer']), int(row['expert'])))} moves most: "
        f"{wording.points(float(row['change']))} on the retain side."
    )
