"""`trace-moe ablate` and `trace-moe rerouted`: causal evidence, as the page shows it.

Without `--cell`, `ablate` takes out every expert by itself; each one's answers are kept under the
home, so that the same command goes on after Ctrl-C.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trace_engine.causal.settings import CausalConfig, parse_causal
from trace_engine.cli.options import read_model
from trace_engine.cli.output import (
    ProgressLine,
    clear_progress,
    emit_json,
    interval,
    note,
    print_table,
)
from trace_engine.disk import write_json
from trace_engine.runs.places import subfolder

if TYPE_CHECKING:
    from trace_engine.causal.paired import Change, Effect
    from trace_engine.causal.results import Ablation, Scan

ABLATE_FIELDS = (
    "questions",
    "split",
    "style",
    "forget_category",
    "max_questions",
    "mode",
    "order",
    "draws",
    "profile",
    "permutations",
    "seed",
)
REROUTED_FIELDS = (
    "questions",
    "split",
    "style",
    "forget_category",
    "max_questions",
    "per_layer",
    "draws",
    "permutations",
    "shuffles",
    "seed",
)
_SHOWN = 10


def ablate(options: argparse.Namespace) -> int:
    cells = tuple(options.cell)
    what = "ablate" if cells else "scan"
    config = _config(options, ABLATE_FIELDS, what=what, cells=cells, model=read_model(options))
    found = _perform(config)
    _keep(options.out, found)
    if options.json:
        emit_json(_with_agreement(found, config.profile))
    elif what == "scan":
        _print_scan(found, config.profile)
    else:
        _print_ablation(found)
    return 0


def rerouted(options: argparse.Namespace) -> int:
    model = read_model(options)
    # Precision and place are the new model's: they are compared as they would be run.
    others = {
        name: model.model_copy(update={"source": source, "revision": None})
        for name in ("before", "reference")
        if (source := getattr(options, name)) is not None
    }
    found = _perform(_config(options, REROUTED_FIELDS, what="rerouted", model=model, **others))
    _keep(options.out, found)
    if options.json:
        emit_json(found.to_dict())
        return 0
    titles = {
        "overlap": "Routing overlap",
        "restored": "Old routers put back",
        "forced": "Experts forbidden",
        "probing": "Probe of hidden states",
    }
    for name, sentence in found.sentences.items():
        print(f"{titles[name]}. {sentence}")
    rows = [
        {
            "layer": row.layer,
            "forget kept": interval(row.forget.value, row.forget.low, row.forget.high),
            "others kept": interval(row.utility.value, row.utility.low, row.utility.high),
        }
        for row in found.overlap.layers
    ]
    print_table(rows, ["layer", "forget kept", "others kept"])
    return 0


def _config(options: argparse.Namespace, fields: Sequence[str], **fixed: Any) -> CausalConfig:
    given = {name: getattr(options, name) for name in fields if name in options}
    return parse_causal(given | fixed)


def _perform(config: CausalConfig) -> Any:
    from trace_engine.causal.perform import perform  # torch and transformers: seconds

    found = perform(config, subfolder("ablations"), ProgressLine())
    clear_progress()
    return found


def _keep(out: Path | None, found: Any) -> None:
    if out is not None:
        write_json(out, found.to_dict())
        note(f"Saved: {out}")


def _with_agreement(found: Any, profile: str | None) -> dict[str, Any]:
    data: dict[str, Any] = found.to_dict()
    if data["what"] == "scan" and profile is not None:
        data["agreement"] = _agreement(found, profile).to_dict()
    return data


def _agreement(found: "Scan", profile: str) -> Any:
    from trace_engine.causal.agreement import agreement
    from trace_engine.routing import load_mismatch

    return agreement(found, load_mismatch(profile))


def _print_scan(found: "Scan", profile: str | None) -> None:
    reused = [check.layer for check in found.prefix if not check.reused]
    print(
        f"{len(found.cells)} experts, {found.questions} questions of {found.tokens:,} tokens; "
        f"accuracy as it is: {found.forget_category} {found.forget_accuracy:.3f}, everything else "
        f"{found.utility_accuracy:.3f}. Load: {found.load_source}."
    )
    if reused:
        print(f"Layers {', '.join(map(str, reused))} could not be replayed: full forwards.")
    print(f"Largest harm to {found.forget_category} beyond the rest, in nats a token:")
    top = sorted(found.cells, key=lambda cell: -cell.specific.value)[:_SHOWN]
    rows = [
        {
            "layer": cell.layer,
            "expert": cell.expert,
            "beyond": interval(cell.specific.value, cell.specific.low, cell.specific.high),
            "forget loss": _moved(cell.forget.loss),
            "corrected p": cell.forget.loss.p_corrected,
            "utility loss": _moved(cell.utility.loss),
            "forget accuracy": _moved(cell.forget.accuracy),
            "load": cell.load,
            "nearest in load": f"{cell.band.as_much} of {cell.band.n} as much",
        }
        for cell in top
    ]
    print_table(rows, list(rows[0]))
    if profile is not None:
        print(_agreement(found, profile).sentence)


def _print_ablation(found: "Ablation") -> None:
    print(found.sentence)
    print_table(
        [_effect_row(effect) for effect in found.effects],
        ["group", "n", "accuracy", "change", "corrected p", "loss", "loss, corrected p"],
    )
    if found.loads is not None:
        print(f"Random sets: {found.loads.sentence} ({found.load_source}).")
    if found.order is not None:
        rows = [
            {
                "out": f"{step.cell.layer}:{step.cell.expert}",
                "forget accuracy": step.forget.accuracy.after,
                "forget loss": _moved(step.forget.loss),
                "utility accuracy": step.utility.accuracy.after,
                "utility loss": _moved(step.utility.loss),
            }
            for step in found.order.steps
        ]
        print(f"One after the other ({found.order.kind.replace('_', ' ')}):")
        print_table(rows, list(rows[0]))


def _effect_row(effect: "Effect") -> dict[str, Any]:
    return {
        "group": effect.group,
        "n": effect.n,
        "accuracy": f"{effect.accuracy.before:.3f} → {effect.accuracy.after:.3f}",
        "change": _moved(effect.accuracy),
        "corrected p": effect.accuracy.p_corrected,
        "loss": _moved(effect.loss),
        "loss, corrected p": effect.loss.p_corrected,
    }


def _moved(change: "Change") -> str:
    return interval(change.change, change.low, change.high)
