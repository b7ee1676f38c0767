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

from app import charts, findings, state, wording
from trace_engine.calibration import Selection, WeightPreview, preview_weights, select_experts
from trace_engine.config import Cell, SelectionConfig, TrainableConfig, WeightsConfig

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
    path: str, stamp: int, selection: str, weights: str, _view: state.ProfileView
) -> tuple[Selection, WeightPreview]:
    chosen = select_experts(
        _view.profile, SelectionConfig.model_validate_json(selection), _view.mismatch
    )
    return chosen, preview_weights(
        _view.profile, chosen, WeightsConfig.model_validate_json(weights)
    )


def fitted(
    view: state.ProfileView, selection: SelectionConfig, weights: WeightsConfig
) -> tuple[Selection, WeightPreview]:
    """Selected cells and fitted weights, kept per profile and settings.

    Raises TraceError (a sentence) when the settings cannot be met by this profile.
    """
    stamp = (view.path / "profile.json").stat().st_mtime_ns
    return _fitted(
        str(view.path), stamp, selection.model_dump_json(), weights.model_dump_json(), view
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
        hover_LE=findings.hover_LE(view),
        significant_LE=findings.significant_LE(view),
        selected=tuple(cells),
        current=current,
    )


def total_cells(view: state.ProfileView) -> int:
    """Experts of the model, all MoE layers together."""
    return int(sum(view.profile.num_experts_L))


def parameters_per_expert(meta: Mapping[str, Any]) -> dict[int, int] | None:
    """Decoder layer -> parameters of one routed expert, as the profile's model recorded them.

    None when the profile holds no such record (written by an older version, or synthetic).
    """
    model = meta.get("model")
    if not isinstance(model, Mapping):
        return None
    sizes, layers = model.get("expert_parameters"), model.get("layers")
    # A size of 0 is the model room's word for experts that cannot be told apart in storage.
    if not sizes or not layers or len(sizes) != len(layers) or 0 in sizes:
        return None
    return {int(layer): int(size) for layer, size in zip(layers, sizes, strict=True)}


def training_sentence(
    meta: Mapping[str, Any], cells: Sequence[Cell], trainable: TrainableConfig
) -> tuple[str, str]:
    """How many parameters would train: a short figure, and a sentence that says of what.

    The figure is "not recorded" or "known at start" where the profile alone cannot tell.
    """
    model = meta.get("model")
    total = model.get("parameters") if isinstance(model, Mapping) else None
    of_total = f" of {wording.count(int(total))}" if isinstance(total, int) else ""
    if trainable.kind == "top_experts":
        which = (
            "The expert" if trainable.number == 1 else f"The {trainable.number} experts"
        ) + " with the highest gate mass on the forget set"
        return "known at start", (
            f"{which}, whatever is selected, and the routers of their layers train; the run states "
            "which and how many parameters once the model is open. Everything else stays bitwise "
            "unchanged."
        )
    if trainable.kind == "layers" or trainable.freeze_routers:
        kept = " but the routers" if trainable.freeze_routers else ""
        where = "the selected experts' layers" if trainable.kind == "layers" else "the model"
        return "known at start", (
            f"Every parameter of {where}{kept} trains; the run states how many once the model is "
            "open."
        )
    if trainable.kind == "all":
        if not of_total:
            return (
                "all",
                "Every parameter of the model trains; the profile did not record how many.",
            )
        figure = wording.count(int(str(total)))
        return figure, f"All {figure} parameters of the model train."
    if trainable.kind == "lora":
        return "known at start", (
            f"LoRA adapters of rank {trainable.lora_rank} train; the run states how many "
            "parameters they have once the model is open."
        )
    if not cells:
        return "0", "No expert is selected, so nothing would train: such a run is refused."
    sizes = parameters_per_expert(meta)
    if sizes is None:
        return "not recorded", (
            f"The slices of {len(cells)} selected experts train; this profile did not record their "
            "size, the run states it."
        )
    number = sum(sizes[cell.layer] for cell in cells)
    share = f" ({wording.percent(number / int(str(total)))})" if of_total else ""
    return wording.count(number), (
        f"{wording.count(number)}{of_total} parameters{share} train: the slices of {len(cells)} "
        "selected experts. Everything else stays bitwise unchanged."
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
