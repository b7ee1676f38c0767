"""`trace-moe profile`: count where two sets are routed, through the same cache as the app's
profiles.

Started by `torchrun`, every process runs this command; the first one speaks for all.
"""

import argparse
import shlex
import shutil
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from trace_engine.cli.options import read_profile
from trace_engine.cli.output import ProgressLine, emit_json, note, print_table
from trace_engine.disk import place_folder
from trace_engine.errors import InputError
from trace_engine.progress import ignore_progress
from trace_engine.routing import (
    Profile,
    RoutingCounts,
    Workers,
    joined,
    load_mismatch,
    uniform_share,
)
from trace_engine.runs.profiles import ProfileAnswer
from trace_engine.spelling import NINETY_FIVE

_SHOWN = 10
COLUMNS = ["layer", "expert", "forget", "retain", "difference", "low", "high", "ratio"]
COLUMNS += ["p_max", "matched_ratio"]


def profile(options: argparse.Namespace) -> int:
    with joined() as workers:
        return _profile(options, workers)


def _profile(options: argparse.Namespace, workers: Workers) -> int:
    config = read_profile(options)
    if options.out is not None:
        require_new(options.out)
    answer = ProfileAnswer(config, workers=workers)
    shared = answer.overlap
    if not workers.leads:
        answer.get(ignore_progress, workers=workers)
        return 0
    if workers.size > 1:
        note(f"{workers.size} processes share the work.")
    if shared.count:
        note(
            f"{shared.count} of {shared.forget_total} forget documents are also in the retain set; "
            "their routing counts on both sides."
        )
    if answer.trial is not None:
        note(answer.trial)
    folder, was_there = answer.get(ProgressLine(), workers=workers, say=note)
    if options.out is not None:
        target: Path = options.out
        if target.exists():
            target.rmdir()
        place_folder(target.absolute(), lambda to: shutil.copytree(folder, to))
    path = options.out or folder
    result = Profile.load(folder)
    show(
        result,
        folder,
        path,
        answer.key,
        was_there,
        options.json,
        processes=workers.size,
        trial=answer.trial,
    )
    return 0


def require_new(folder: Path) -> None:
    """Raise InputError unless `folder` is missing or empty, and can be written.

    What is missing above it is made. Profiling may take hours; this must be known before.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not empty. Name another folder for --out.")
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder.absolute().parent):
            pass
    except OSError as error:
        reason = error.strerror or "the system gives no reason"
        raise InputError(
            f"{folder} cannot be written ({reason}). Name another folder for --out."
        ) from None


def by_block(counts: RoutingCounts) -> bool:
    """Whether a side is counted per block of documents."""
    return counts.unit == "block"


def _comparing(result: Profile) -> str | None:
    """The command that says what the profile's precision changes; None in float32."""
    model: dict[str, Any] = result.meta["model"]
    if model["dtype"] == "float32":
        return None
    words = ["trace-moe", "inspect", str(model["source"]), "--dtype", model["dtype"]]
    return shlex.join([*words, "--compare-dtype", "float32"])


def show(
    result: Profile,
    folder: Path,
    path: Path,
    key: str,
    was_there: bool,
    as_json: bool,
    processes: int = 1,
    trial: str | None = None,
) -> None:
    found = load_mismatch(folder)
    top = found.table().sort_values("difference", ascending=False, kind="stable").head(_SHOWN)
    sides = {
        name: {
            "documents": counts.documents if by_block(counts) else len(counts.document_ids),
            "blocks": len(counts.document_ids) if by_block(counts) else None,
            "tokens": int(counts.tokens_D.sum()),
            "truncated_documents": counts.truncated_documents,
        }
        for name, counts in (("forget", result.forget), ("retain", result.retain))
    }
    if as_json:
        emit_json(
            {
                "key": key,
                "path": str(path),
                "computed": not was_there,
                "processes": processes,
                **sides,
                "layers": list(result.layers),
                "num_experts": list(result.num_experts_L),
                "experts_per_token": list(result.experts_per_token_L),
                "largest_gaps": top[COLUMNS].to_dict("records"),
                "notes": list(found.notes),
                "experts_implementation": result.meta["model"]["experts_implementation"],
                "trial": trial,
                "dtype": result.meta["model"]["dtype"],
                "compare_dtype": _comparing(result),
            }
        )
        return
    compare = _comparing(result)
    for name, side in sides.items():
        kept = f" in {side['blocks']:,} blocks" if side["blocks"] else ""
        print(f"{name}: {side['documents']:,} documents{kept}, {side['tokens']:,} tokens counted")
    shares = sorted(
        {round(float(share), 4) for share in uniform_share(result).ravel() if share > 0}
    )
    print(f"A router without preference would send {', '.join(map(str, shares))} to each expert.")
    print(f"Largest gaps (share of tokens; {NINETY_FIVE} interval of the difference):")
    print_table(top, COLUMNS)
    for sentence in found.notes:
        print(sentence)
    if compare is not None:
        print(
            f"Routed in {result.meta['model']['dtype']}, where some tokens go to other experts "
            f"than in float32. How many choices and counts move on a sample: {compare}"
        )
    print(f"{'Found' if was_there else 'Saved'}: {path} (key {key[:12]})")
