"""`trace-moe inspect`: what a model is, where it routes, what it needs and what TRACE can do with
it, before its weights are loaded.

The trial and the comparison of precisions are asked for by options, because they compute.
"""

import argparse
from itertools import groupby
from typing import Any

from trace_engine.cli.options import read_fields, read_model
from trace_engine.cli.output import ProgressLine, emit_json, print_table
from trace_engine.config import ModelConfig, SetConfig
from trace_engine.errors import ModelError
from trace_engine.models.inspection import Inspection, inspect_closely
from trace_engine.models.memory import free_on
from trace_engine.models.shift import DtypeShift, dtype_shift
from trace_engine.models.trial import Trial, try_experts
from trace_engine.sets import load_set
from trace_engine.spelling import size, spans


def inspect(options: argparse.Namespace) -> int:
    config: ModelConfig = read_model(options)
    # An unknown precision is refused before anything is looked at.
    other = None
    if options.compare_dtype is not None:
        word = argparse.Namespace(dtype=options.compare_dtype)
        other = read_fields(word, ModelConfig, **config.model_dump(exclude={"dtype"}))
    report = ProgressLine()
    found = inspect_closely(config, hashed=options.fingerprint, report=report)
    # What would refuse a model ends the command with its sentence and exit code 2, as ever, but
    # only after everything else has been said.
    refusals = [found.memory_problem] if found.memory_problem is not None else []
    trial, trial_problem = None, None
    if options.trial or config.experts_implementation == "trial":
        try:
            trial = try_experts(config)
        except ModelError as error:
            trial_problem = str(error)
            refusals.append(trial_problem)
    shift = None
    if other is not None and found.memory_problem is None:
        documents = load_set(SetConfig(source=options.documents)).documents
        texts = [document.text for document in documents]
        shift = dtype_shift(config, other, texts, report=report)
    if options.json:
        emit_json(
            found.to_dict()
            | {
                "trial": None if trial is None else trial.to_dict(),
                "trial_problem": trial_problem,
                "dtype_shift": None if shift is None else shift.to_dict(),
            }
        )
    else:
        _show(found)
        if trial is not None:
            _show_trial(trial)
        if shift is not None:
            _show_shift(shift, options.documents)
    if refusals:
        raise ModelError(" ".join(refusals))
    return 0


def _show(found: Inspection) -> None:
    info, need = found.info, found.need
    shared = {True: "yes", False: "no", None: "unknown"}[info.shared_experts]
    if found.shared:
        shared += f" ({', '.join(f'{name} {value:,}' for name, value in found.shared.items())})"
    print(f"{info.source}: {info.architecture} ({info.model_type})")
    print(f"{info.parameters:,} parameters, {info.dtype}, vocabulary {info.vocab_size:,}")
    print(
        f"experts run as {info.experts_implementation} on {info.device}; shared experts: {shared}"
    )
    if info.fingerprint:
        print(f"fingerprint {info.fingerprint}")
    print()
    print_table(_alike(found), ["layers", "experts", "experts per token", "router"])
    print("\nMemory (the weights are exact, the rest are estimates):")
    rows = [
        ("weights", need.weights, f"of these {size(need.experts)} routed experts"),
        ("training every parameter", need.training, "weights, gradients, AdamW; not activations"),
        ("profiling, per batch", need.batch, f"{need.tokens:,} tokens, on top of the weights"),
        (f"free on {info.device}", free_on(found.machine, info.device), ""),
    ]
    print_table([{"what": a, "size": size(b), "": c} for a, b, c in rows], ["what", "size", ""])
    print("\nSupported:")
    print_table(
        [{"what": item.what, "answer": item.answer, "": item.why} for item in found.support],
        ["what", "answer", ""],
    )
    for sentence in found.notes:
        print(sentence)


def _alike(found: Inspection) -> list[dict[str, Any]]:
    """One row for each stretch of sites that are alike, as on the page."""
    kinds = groupby(
        found.to_dict()["sites"],
        key=lambda site: (site["experts"], site["experts_per_token"], site["router"]),
    )
    return [
        {
            "layers": spans([site["layer"] for site in sites]),
            "experts": experts,
            "experts per token": chosen,
            "router": router,
        }
        for (experts, chosen, router), sites in kinds
    ]


def _show_trial(trial: Trial) -> None:
    print(f"\nTrial ({trial.shape}; median milliseconds):")
    rows: list[dict[str, Any]] = [
        {
            "implementation": timing.implementation,
            "forward": f"{timing.forward_ms:.1f}",
            "n": timing.forwards,
            "forward and backward": f"{timing.training_ms:.1f}",
            "n ": timing.trainings,
        }
        for timing in trial.timings
    ]
    print_table(rows, ["implementation", "forward", "n", "forward and backward", "n "])
    for sentence in trial.skipped:
        print(sentence)
    print(
        f"Fastest here: {trial.fastest_forward} forward, {trial.fastest_training} forward and "
        f"backward. auto takes {trial.automatic} whatever is measured, so that bits repeat; choose "
        "another with --experts-implementation, or trial to have the fastest picked and recorded."
    )


def _show_shift(shift: DtypeShift, documents: str) -> None:
    print(
        f"\n{shift.dtype} against {shift.reference}, on {shift.documents:,} documents of "
        f"{documents} ({shift.tokens:,} tokens, {shift.choices:,} choices): "
        f"{100 * shift.choices_changed:.2f} % of the choices go to another expert, and "
        f"{100 * shift.counts_moved:.2f} % of the counts move."
    )
