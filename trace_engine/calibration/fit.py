"""Fit token weights to a profile: the rule, the hardness, and what they reach.

Everything runs on unique activity patterns of the retain sample's labelled tokens, so that a slider
in the app and the search for `auto` cost milliseconds. Accepted trade-off: when the sample is part
of a larger set, gaps are closed on the sample, and the notes say so.

Dims: N sampled tokens, S selected cells, U usable (coverable) cells, P unique patterns.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trace_engine.calibration.activity import (
    Bools,
    Floats,
    active_matrix,
    calibration_frequencies,
    labelled,
    trained_positions,
    unique_patterns,
)
from trace_engine.calibration.rules import LOG_LINEAR, normalise_weights, target_frequencies
from trace_engine.calibration.search import Fit, Search, in_parts
from trace_engine.calibration.selection import Selection
from trace_engine.calibration.weights import TABLE_TYPES, FittedWeights, Histogram
from trace_engine.config import Cell, WeightsConfig
from trace_engine.routing import Profile, TokenSample
from trace_engine.spelling import number, percent


def fit_weights(
    profile: Profile,
    selection: Selection,
    config: WeightsConfig,
    *,
    max_length: int | None = None,
) -> FittedWeights:
    """Token weights for the retain set, from the profile's token samples (method.md section 3).

    `max_length`: tokens of a document that training sees; the fit is on the labels among them, so
    that mean and gaps are those of training, and a note says how many lie beyond.
    Raises InputError when a cell does not exist, CalibrationError when the samples hold no labelled
    token or the rule `odds` is given anything but one coverable cell with a target below 1.
    """
    for cell in selection.cells:
        profile.check_cell(*cell)
    sample = trained_positions(profile.sample_retain, max_length)
    forget = trained_positions(profile.sample_forget, max_length)
    notes = [] if selection.cells else [selection.why_empty]
    notes += _beyond(profile, sample, max_length)
    active_NS = active_matrix(sample.index_NLK, profile.layers, selection.cells)
    fitted = fit_arrays(
        active_NS[labelled(sample)],
        calibration_frequencies(forget, profile.layers, selection.cells),
        selection.cells,
        config,
        sequence_T=sample.document_N[sample.labelled_N],
        complete=profile.sample_retain.complete and profile.sample_forget.complete,
        notes=tuple(notes),
    )
    patterns = unique_patterns(active_NS)
    weights_N = in_parts(fitted.token_weights, patterns.active_PS)[patterns.inverse_N]
    if config.normalise == "sequence":
        weights_N = normalise_weights(weights_N, "sequence", sample.labelled_N, sample.document_N)
    return replace(fitted, weights_N=weights_N)


def _beyond(profile: Profile, sample: TokenSample, max_length: int | None) -> list[str]:
    """What to know where training sees less of a document than the profile, or more."""
    if max_length is None:
        return []
    every, inside = int(profile.sample_retain.labelled_N.sum()), int(sample.labelled_N.sum())
    if inside < every:
        return [
            f"Fitted on {inside:,} of the profile's {every:,} retain tokens: the others lie beyond "
            f"the {max_length:,} tokens of a document that are trained on (max_length)."
        ]
    profiled = (profile.meta.get("settings") or {}).get("max_length", max_length)
    cut = profile.retain.truncated_documents
    if profiled < max_length and cut:
        return [
            f"{cut:,} retain documents were profiled up to {profiled:,} "
            f"tokens and are trained on up to {max_length:,}: the weights are not fitted on the "
            "rest. Set profile_max_length to max_length for weights that are."
        ]
    return []


def fit_arrays(
    active_TS: Bools,
    forget_S: Floats,
    cells: Sequence[Cell],
    config: WeightsConfig,
    *,
    sequence_T: NDArray[np.integer[Any]] | None = None,
    complete: bool = True,
    notes: tuple[str, ...] = (),
) -> FittedWeights:
    """The fit itself, from retain activity (T, S) and forget-side frequencies (S,).

    `sequence_T` (the document of each token) is needed for mode `sequence` only. Raises as
    `fit_weights`.
    """
    patterns = unique_patterns(active_TS)
    retain_S = patterns.frequency_S
    used_S = retain_S > 0
    search = Search(patterns, used_S, forget_S[used_S], config, sequence_T)
    fit = search.auto() if config.hardness == "auto" else search.fixed(config.hardness)
    weighed = search.weigh(fit)

    target_S = target_frequencies(forget_S, retain_S, fit.hardness)
    achieved_S = patterns.sums(weighed.total_P) / weighed.total_P.sum()
    coefficient_S = np.full(len(cells), 0.0 if config.rule in LOG_LINEAR else 1.0)
    coefficient_S[used_S] = fit.coefficient_U
    relaxed_S = np.zeros(len(cells), dtype=np.bool_)
    relaxed_S[used_S] = fit.relaxed_U
    table = pd.DataFrame(
        {
            "layer": [cell.layer for cell in cells],
            "expert": [cell.expert for cell in cells],
            "forget": forget_S,
            "retain": retain_S,
            "target": target_S,
            "achieved": achieved_S,
            "residual": achieved_S - target_S,
            "uncoverable": ~used_S,
            "relaxed": relaxed_S,
            "coefficient": coefficient_S,
        }
    ).astype(TABLE_TYPES)
    mass = float(forget_S.sum())
    limit = _limiting_cell(fit, used_S, cells, config)
    diagnostics: dict[str, Any] = {
        "ess": weighed.ess_share * patterns.tokens,
        "ess_share": weighed.ess_share,
        "tokens": patterns.tokens,
        "max_weight": float(weighed.value_W.max()),
        "min_weight": float(weighed.value_W.min()),
        "mean_weight": float(weighed.total_P.sum()) / patterns.tokens,
        "hardness": fit.hardness,
        "residual_gap": float(np.abs(table["residual"].to_numpy()[used_S]).max(initial=0.0)),
        "uncovered_mass": float(forget_S[~used_S].sum()) / mass if mass else 0.0,
        "selected": len(cells),
        "uncoverable": int((~used_S).sum()),
        "relaxed": int(relaxed_S.sum()),
        "limited_by": None if limit is None else list(limit),
        "newton_steps": fit.steps,
        "sample_complete": complete,
    }
    return FittedWeights(
        cells=tuple(cells),
        rule=config.rule,
        normalise=config.normalise,
        hardness=fit.hardness,
        strength=config.strength,
        lowest=config.clip[0],
        used_S=used_S,
        coefficient_S=coefficient_S,
        normaliser=1.0 if config.normalise == "none" else fit.normaliser,
        table=table,
        diagnostics=diagnostics,
        notes=notes + _notes(table, diagnostics, fit, config),
        histogram=Histogram.of(weighed.value_W, weighed.count_W),
        weights_N=None,
    )


def _limiting_cell(
    fit: Fit, used_S: Bools, cells: Sequence[Cell], config: WeightsConfig
) -> Cell | None:
    """The cell whose tokens are weighted most, when `auto` could not reach κ = 1."""
    if config.hardness != "auto" or fit.hardness == 1.0:
        return None
    strength_U = fit.coefficient_U if config.rule in LOG_LINEAR else np.log(fit.coefficient_U)
    return cells[int(np.flatnonzero(used_S)[np.abs(strength_U).argmax()])]


def _notes(
    table: pd.DataFrame, diagnostics: dict[str, Any], fit: Fit, config: WeightsConfig
) -> tuple[str, ...]:
    notes = []
    for row in table[table["uncoverable"]].itertuples():
        notes.append(
            f"Layer {row.layer}, expert {row.expert} is uncoverable: no retain token routes to it, "
            "so no weighting can raise it. It takes no part in the weights."
        )
    relaxed = table[table["relaxed"]]
    for row, residual in zip(relaxed.itertuples(), relaxed["residual"].astype(float), strict=True):
        notes.append(
            f"Layer {row.layer}, expert {row.expert} cannot reach {row.target:.4f} together with "
            f"the other selected experts on this retain set; {row.achieved:.4f} is reached "
            f"(residual {number(residual, '+.4f')})."
        )
    if diagnostics["limited_by"] is not None:
        layer, expert = diagnostics["limited_by"]
        notes.append(
            f"Hardness is {fit.hardness:.3f}: above it, fewer than {percent(config.ess_floor, 0)} "
            "of the tokens would count effectively, or a target is impossible. "
            f"Layer {layer}, expert {expert} asks for the largest weights."
        )
    if fit.clipped:
        low, high = config.clip
        notes.append(
            f"{fit.clipped} of {len(table)} ratios were clipped to [{low:g}, {high:g}], so their "
            "gaps stay open further than the hardness says."
        )
    if config.rule == "exact" and config.strength != 1:
        notes.append("Strength applies to the simple rules; `exact` is set by its hardness.")
    if config.normalise == "batch":
        notes.append("Figures are for the whole set; training normalises each batch to mean 1.")
    if not diagnostics["sample_complete"]:
        notes.append(
            f"Fitted on a sample of {diagnostics['tokens']:,} retain tokens, not the whole set: "
            "there, the gaps differ by sampling error."
        )
    return tuple(notes)
