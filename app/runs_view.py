"""Runs in words: what state a run is in, how far it is, how long still, and what one may do with
it.

Pure functions of `RunStatus`, `progress.json` and rows. The page only reads; the worker alone
writes. Accepted trade-off: a rate is taken over the recorded steps, so the first seconds of a run
show none.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from app import wording
from trace_engine.evaluation.outcome import number
from trace_engine.runs import RunStatus, RunSummary

WORDS = {
    "starting": "starting",
    "queued": "queued",
    "running": "running",
    "done": "done",
    "stopped": "stopped",
    "failed": "failed",
    "interrupted": "interrupted",
    "damaged": "damaged",
}
ICONS = {
    "starting": ":material/hourglass_top:",
    "queued": ":material/hourglass_empty:",
    "running": ":material/play_arrow:",
    "done": ":material/check_circle:",
    "stopped": ":material/pause_circle:",
    "failed": ":material/error:",
    "interrupted": ":material/power_off:",
    "damaged": ":material/broken_image:",
}
COLOURS: dict[str, Any] = {
    "starting": "blue",
    "queued": "gray",
    "running": "blue",
    "done": "green",
    "stopped": "orange",
    "failed": "red",
    "interrupted": "orange",
    "damaged": "red",
}

SAME_AGAIN = (
    "A resume keeps the settings, so it would fail in the same way, unless what is named above "
    "has changed outside of them: a file put in its place, a network, free memory. To change a "
    "setting, use the form below and launch a new run."
)


def progress_sentence(progress: Mapping[str, Any] | None) -> str | None:
    """What the worker is doing now: phase, how far, rate and time left; None when nothing is
    known.
    """
    if not progress:
        return None
    done, total = int(progress.get("done", 0)), int(progress.get("total", 0))
    unit = str(progress.get("unit", ""))
    phase = str(progress.get("phase", "working"))
    # One thing that is done or not has no count worth reading.
    parts = [phase if total == 1 else f"{phase}: {wording.count(done)}"]
    if total > 1:
        parts[0] += f" of {wording.count(total)} {unit}"
    rate = number(progress.get("per_second"))
    if rate == rate:
        parts.append(f"{wording.count(round(rate)) if rate >= 10 else f'{rate:.2g}'} {unit}/s")
    eta = number(progress.get("eta_seconds"))
    if eta >= 1:
        parts.append(f"about {wording.duration(eta)} left")
    return ", ".join(parts)


def state_sentence(status: RunStatus) -> str:
    """The state as one sentence a person can act on; the worker's own message where it left one."""
    # The worker's own word for the state is the sentence's first word already.
    message = status.message.strip().removeprefix(f"{status.state}: ")
    if status.state == "queued":
        return f"Queued: {message or 'another run has the machine'} It starts by itself."
    if status.state == "starting":
        return "Starting: the worker is opening the model and the sets."
    if status.state == "running":
        text = "Running." if status.attempt < 2 else f"Running, attempt {status.attempt}."
        if status.stalled:
            silent = wording.duration(status.silent_seconds)
            text += f" The worker has not reported for {silent}: slow, or hanging."
        return text
    if status.state == "done":
        return message or f"Done after {status.step} steps."
    if status.state == "stopped":
        return f"{message or f'Stopped at step {status.step}.'} Resume continues from there."
    if status.state == "failed":
        return f"Failed at step {status.step} of {status.max_steps}: {message}"
    return message or f"{status.state.capitalize()} at step {status.step}."


def fact_sentences(facts: Mapping[str, Any]) -> list[str]:
    """What the run found out before its first step: knowledge, cells and parameters, overlap,
    sets.
    """
    sentences = []
    knowledge = facts.get("knowledge")
    if isinstance(knowledge, Mapping) and knowledge.get("sentence"):
        sentences.append(f"Knowledge check: {knowledge['sentence']}")
    trainable, selection = facts.get("trainable"), facts.get("selection")
    if isinstance(trainable, Mapping) and isinstance(selection, Mapping):
        cells = [tuple(cell) for cell in selection.get("cells", ())]
        names = ", ".join(f"L{layer}{wording.NBSP}E{expert}" for layer, expert in cells[:8])
        more = f" and {len(cells) - 8} more" if len(cells) > 8 else ""
        sentences.append(
            f"{wording.count(int(trainable['parameters']))} of "
            f"{wording.count(int(trainable['total']))} parameters train; {len(cells)} experts are "
            f"calibrated{': ' + names + more if cells else ''}."
        )
    method = facts.get("method")
    if isinstance(method, Mapping) and method.get("layer") is not None:
        sentences.append(f"The hidden states of decoder layer {method['layer']} are driven.")
    for key in ("anchor", "control"):
        found = facts.get(key)
        if isinstance(found, Mapping) and found.get("sentence"):
            sentences.append(str(found["sentence"]))
    weights = facts.get("weights")
    if isinstance(weights, Mapping) and isinstance(weights.get("diagnostics"), Mapping):
        diagnostics = weights["diagnostics"]
        sentences.append(
            f"Weights by {weights.get('rule')}: κ {number(diagnostics.get('hardness')):.2f}, "
            f"effective sample {wording.percent(number(diagnostics.get('ess_share')), 0)}, largest "
            f"weight {number(diagnostics.get('max_weight')):.1f}."
        )
    shared = overlap_sentence(facts)
    if shared is not None:
        sentences.append(shared)
    if facts.get("held_out"):
        sides = ((name, facts.get(name)) for name in ("forget", "retain"))
        held = {name: int(side["measured_on"]) for name, side in sides if isinstance(side, Mapping)}
        counts = " and ".join(f"{wording.count(n)} {name}" for name, n in held.items())
        which = "document, which is" if sum(held.values()) == 1 else "documents, which are"
        sentences.append(f"The loss curve is on {counts} {which} never trained on.")
    return sentences


def overlap_sentence(facts: Mapping[str, Any]) -> str | None:
    """How many documents each set has and how many both hold; None where it is not recorded."""
    found = facts.get("overlap")
    if not isinstance(found, Mapping):
        return None
    count, forget, retain = (int(found[name]) for name in ("count", "forget_total", "retain_total"))
    if count == 0:
        return (
            f"Overlap: none of {wording.count(forget)} forget documents is among the "
            f"{wording.count(retain)} retain documents."
        )
    return (
        f"Overlap: {wording.count(count)} of {wording.count(forget)} forget documents "
        f"{'is' if count == 1 else 'are'} among the {wording.count(retain)} retain documents too."
    )


def overlaps(facts: Mapping[str, Any]) -> bool:
    """Whether the two sets are known to share a document."""
    found = facts.get("overlap")
    return isinstance(found, Mapping) and int(found.get("count", 0)) > 0


def label_of(run_id: str, name: str) -> str:
    """The run's label, or its id where it has none."""
    return name.strip() or run_id


def option_of(run_id: str, name: str) -> str:
    """How a run is offered for choosing: its label, and the id that no other run has."""
    return f"{name.strip()} · {run_id}" if name.strip() else run_id


def run_line(run: RunSummary) -> dict[str, Any]:
    """One line of the list of past runs."""
    status = run.status
    return {
        "run": label_of(run.id, run.name),
        "state": WORDS.get(status.state, status.state),
        "step": f"{status.step} / {status.max_steps}" if status.max_steps else "",
        "attempt": status.attempt,
        "started": _started(status.created),
        "id": run.id,
    }


def _started(created: float) -> str:
    """When a run was launched; a damaged one may not say."""
    if not created:
        return "not recorded"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(created))


def runs_frame(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The list of past runs, in the order given."""
    return pd.DataFrame(lines, columns=["run", "state", "step", "attempt", "started", "id"])
