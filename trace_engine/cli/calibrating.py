"""`trace-moe select` and `trace-moe weights`: what would be calibrated and how hard, before
anything runs.

Needs a profile only: no model, no torch. It accepts reading the whole profile for each command.
"""

import argparse
from pathlib import Path
from typing import Any

from trace_engine import formats
from trace_engine.calibration import (
    Selection,
    WeightPreview,
    preview_weights,
    select_experts,
    top_experts,
)
from trace_engine.cli.options import read_selection, read_weights
from trace_engine.cli.output import emit_json, print_table
from trace_engine.config import SelectionConfig, TrainableConfig
from trace_engine.disk import write_json
from trace_engine.errors import InputError
from trace_engine.routing import Mismatch, Profile, load_mismatch, mismatch
from trace_engine.routing.mismatch_map import mismatch_name
from trace_engine.runs import find_profile
from trace_engine.spelling import percent
from trace_engine.trained import trained_parameters


def find(source: str) -> Path:
    """A profile's folder from its path or its key. Raises InputError when there is none."""
    folder = Path(source)
    if folder.is_dir():
        return folder
    if "/" not in source and len(source) >= 16 and set(source) <= set("0123456789abcdef"):
        found = find_profile(source)
        if found is not None:
            return found
    raise InputError(f"{source}: no such profile folder, and no profile with this key.")


def chosen(options: argparse.Namespace) -> tuple[Profile, Selection]:
    folder = find(options.profile)
    config = read_selection(options)
    profile = Profile.load(folder)
    return profile, select_experts(profile, config, uncertainty(folder, profile, config))


def uncertainty(folder: Path, profile: Profile, config: SelectionConfig) -> Mismatch:
    """The map saved with the profile, or computed where this statistic's was not."""
    if (folder / mismatch_name(config.statistic)).exists():
        return load_mismatch(folder, config.statistic)
    return mismatch(profile, config.statistic)


def select(options: argparse.Namespace) -> int:
    profile, selection = chosen(options)
    trains = would_train(profile, selection)
    data = {formats.FIELD: formats.CALIBRATION} | selection.to_dict() | {"trains": trains}
    if options.out is not None:
        write_json(options.out, data)
    if options.json:
        emit_json(data)
    else:
        print_selection(selection)
        print("\nParameters that would train, by trainable.kind:")
        rows = [
            {"kind": kind, "parameters": "not recorded" if number is None else f"{number:>12,}"}
            for kind, number in trains.items()
        ]
        print_table(rows, ["kind", "parameters"])
    return 0


def would_train(profile: Profile, selection: Selection) -> dict[str, int | None]:
    """How many parameters each kind of trainable set has with this selection, by defaults."""
    model = profile.meta.get("model") or {}
    kinds = {
        "all": TrainableConfig(),
        "all, routers frozen": TrainableConfig(freeze_routers=True),
        "layers": TrainableConfig(kind="layers"),
        "selected_experts": TrainableConfig(kind="selected_experts"),
        "top_experts": TrainableConfig(kind="top_experts"),
        "lora": TrainableConfig(kind="lora"),
    }
    found = {}
    for name, trainable in kinds.items():
        top = trainable.kind == "top_experts"
        cells = (
            [cell for cell, _ in top_experts(profile, trainable.number)]
            if top
            else list(selection.cells)
        )
        found[name] = trained_parameters(model, trainable, cells)
    return found


def print_selection(selection: Selection) -> None:
    columns = ["layer", "expert", "forget", "retain", "score", "low", "high", "p_max", "origin"]
    print_table(selection.table, [name for name in columns if name in selection.table])
    if selection.cells:
        share = percent(selection.gap_share, 0)
        print(f"{len(selection.cells)} experts selected; they hold {share} of the positive gap.")
    else:
        print(selection.why_empty)
    for cell in selection.removed:
        print(f"removed by hand: layer {cell.layer}, expert {cell.expert}")
    for sentence in selection.notes:
        print(sentence)


def weights(options: argparse.Namespace) -> int:
    profile, selection = chosen(options)
    preview = preview_weights(profile, selection, read_weights(options))
    data = {formats.FIELD: formats.CALIBRATION} | weights_json(selection, preview)
    if options.out is not None:
        write_json(options.out, data)
    if options.json:
        emit_json(data)
    else:
        print_weights(preview)
    return 0


def weights_json(selection: Selection, preview: WeightPreview) -> dict[str, Any]:
    fitted = preview.fitted
    return {
        "selection": selection.to_dict(),
        "rule": fitted.rule,
        "hardness": fitted.hardness,
        "diagnostics": fitted.diagnostics,
        "table": fitted.table.to_dict("records"),
        "histogram": fitted.histogram.to_dict(),
        "unselected_change": preview.unselected_change,
        "notes": list(fitted.notes),
    }


def print_weights(preview: WeightPreview) -> None:
    fitted, found = preview.fitted, preview.diagnostics
    print(f"rule {fitted.rule}, hardness {fitted.hardness:.3f}")
    columns = ["layer", "expert", "forget", "retain", "target", "achieved", "residual"]
    columns += ["uncoverable"]
    print_table(fitted.table, columns)
    print(
        f"effective sample size {percent(found['ess_share'], 0)} of {found['tokens']:,} retain "
        f"tokens, largest weight {found['max_weight']:.2f}, mean {found['mean_weight']:.4f}"
    )
    print(f"largest remaining gap {found['residual_gap']:.2e}")
    print(f"largest move of an expert that was not selected {preview.unselected_change:.4f}")
    for sentence in fitted.notes:
        print(sentence)
