"""What a card says was measured: before and after with intervals and n, drift, and on what."""

from collections.abc import Iterator, Mapping
from typing import Any

from trace_engine.config import UnlearnConfig
from trace_engine.evaluation.outcome import Figure, figure_of, forget_and_utility, number
from trace_engine.export.words import lines, plain, short_source, table
from trace_engine.spelling import percent


def measured(
    config: UnlearnConfig, facts: Mapping[str, Any], evaluations: list[dict[str, Any]]
) -> str:
    """The card's section on a run's first and last evaluation."""
    head = ("", "## What was measured", "")
    if not evaluations:
        return lines(*head, "No evaluation was recorded.")
    first, last = evaluations[0], evaluations[-1]
    told = [
        f"Before: step {first['step']}{' (the start model)' * (first['step'] == 0)}. After: step "
        f"{last['step']}. Brackets are 95 % intervals; n counts questions for accuracies and "
        "documents for losses.",
        "",
        *table(("", "before", "after", "n"), _figures(config, first, last)),
        "",
    ]
    knowledge = (facts.get("knowledge") or {}).get("sentence")
    if knowledge:
        told.append(f"- {knowledge}")
    asked = facts.get("questions") or {}
    if config.evaluation.questions is None:
        told.append("- No questions were asked: knowledge was judged by losses alone.")
    else:
        accuracy = last.get("accuracy") or {}
        chance = number((accuracy.get(config.evaluation.forget_category) or {}).get("chance"))
        guessing = f"; guessing gives {percent(chance)}" if chance == chance else ""
        told.append(
            f"- Questions: {plain(short_source(config.evaluation.questions))}, scored as "
            f"`{config.evaluation.style}`{guessing}. SHA-256 of the questions: "
            f"`{asked.get('fingerprint', 'not recorded')}`. Settings that were chosen on these "
            "questions make their score a little too good."
        )
    told.append(f"- Losses are of {facts.get('loss_curve', 'documents, not recorded which')}.")
    told.append(f"- {_drift(last)}")
    return lines(*head, *told)


def result(config: UnlearnConfig, evaluations: list[dict[str, Any]]) -> str:
    """The outcome in two sentences: whether it has forgotten, beyond its interval, and what it
    kept."""
    if len(evaluations) < 2:
        return "It was not measured before and after."
    first, last = evaluations[0], evaluations[-1]
    if not last.get("accuracy"):
        before, after = (figure_of(row.get("forget_nll")) for row in (first, last))
        kept = [figure_of(row.get("retain_nll")) for row in (first, last)]
        told = _change("Loss on the forget documents", before, after, rises=True)
        return f"{told} {_both('Loss on the retain documents', *kept)}"
    pairs = [
        forget_and_utility(row.get("accuracy"), config.evaluation.forget_category)
        for row in (first, last)
    ]
    told = _change("Accuracy on what should be forgotten", pairs[0][0], pairs[1][0])
    return f"{told} {_both('Accuracy on what should be kept', pairs[0][1], pairs[1][1])}"


def _change(what: str, before: Figure, after: Figure, *, rises: bool = False) -> str:
    told = _both(what, before, after)
    bound = after.low if rises else after.high
    if not (before.known and after.known) or bound != bound:
        return f"{told} Whether it has forgotten cannot be said from that."
    if (bound > before.value) if rises else (bound < before.value):
        return f"{told} That is beyond its interval: by this measure it has forgotten."
    return f"{told} The interval still includes the start: by this measure nothing is forgotten."


def _both(what: str, before: Figure, after: Figure) -> str:
    return f"{what}: {_figure(before)} before, {_figure(after)} after."


def _figures(
    config: UnlearnConfig, first: Mapping[str, Any], last: Mapping[str, Any]
) -> Iterator[list[str]]:
    goal = config.evaluation.forget_category
    groups = sorted((last.get("accuracy") or {}).keys() - {goal})
    if last.get("accuracy"):
        pairs = [forget_and_utility(row.get("accuracy"), goal) for row in (first, last)]
        yield _row(f"accuracy, to forget ({plain(goal)})", pairs[0][0], pairs[1][0])
        yield _row("accuracy, to keep (all other groups)", pairs[0][1], pairs[1][1])
    for group in groups:
        cells = [figure_of((row.get("accuracy") or {}).get(group)) for row in (first, last)]
        yield _row(f"— {plain(group)}", *cells)
    for side in ("forget", "retain"):
        cells = [figure_of(row.get(f"{side}_nll")) for row in (first, last)]
        yield _row(f"loss on {side} documents, nats per token", *cells)


def _row(name: str, before: Figure, after: Figure) -> list[str]:
    n = str(after.n) if after.n == before.n else f"{before.n}, {after.n}"
    return [name, _figure(before), _figure(after), n]


def _figure(figure: Figure) -> str:
    if not figure.known:
        return "not measured"
    if figure.low != figure.low or figure.high != figure.high:
        return f"{figure.value:.3f} (too few for an interval)"
    return f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def _drift(last: Mapping[str, Any]) -> str:
    found = last.get("drift") or {}
    kept = [number(value) for value in found.get("overlap") or ()]
    if not kept:
        return "Routing drift was not measured."
    layers = ", ".join(
        f"layer {layer} {percent(share)}"
        for layer, share in zip(found.get("layers", ()), kept, strict=True)
    )
    return (
        f"Routing drift: the share of their experts that the same tokens kept against the start "
        f"model is {percent(sum(kept) / len(kept))} on average ({layers})."
    )
