"""From stored per-question routing, answers and probes to the figures of "erased, or re-routed":
pure functions of a part's items, so that `verify` makes them again.

Every figure has n and a 95 % interval, by bootstrap over questions. A change is paired: the same
questions with other routing, less as they are answered by the model as it is. What the best of
several layers is chosen by, an interval does not allow for; the sentences say so.
"""

# Dims: N questions, L layers

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from trace_engine.attacks.paired import Shares, difference, mean, shares
from trace_engine.audit.names import ROLE_WORDS
from trace_engine.causal.paired import mcnemar, returned_share
from trace_engine.causal.rerouted_results import SHOWS
from trace_engine.evaluation.estimate import Estimate
from trace_engine.evaluation.resampling import bootstrap
from trace_engine.spelling import number

Items = Mapping[str, Any]
Row = dict[str, Any]

ROUTED: Final[Mapping[str, str]] = {
    "before": "before, plain",
    "after": "model, plain",
    "reference": "reference, plain",
    "restored": "model, the start model's routers put back",
    "forced": "model, the experts that serve the forget questions now, forbidden",
}
"""What other routing is called among the marks, by its name in the causal evidence."""
ROLE_OF: Final = {"before": "before", "after": "model", "reference": "reference"}
"""What a model of the causal evidence is in an audit."""
GROUPS: Final = {"forget": "forget questions", "utility": "other questions"}
KEPT: Final = "share of experts kept"
RIGHT: Final = "right"
CHANGE: Final = "change from the model as it is"
RETURNED: Final = "share of the loss that came back"
FOUND: Final = "answers found by the probe"
FURTHER: Final = {
    "reference": "found beyond the reference",
    "before": "found beyond the start model",
}
QUESTIONS: Final = "bootstrap over questions"
OTHER_ROUTING: Final = ("restored", "forced")


def rerouted_figures(items: Items, seed: int) -> dict[str, Any]:
    """Rows and sentences of all four tests; nothing where an older version kept no routing."""
    if "kept" not in items:
        return {}
    rows = [*_kept_rows(items, seed), *_routed_rows(items, seed), *_probe_rows(items, seed)]
    said = dict(items["not_made"]) | _sentences(rows, items)
    return {"figures": rows, "sentences": {test: said[test] for test in SHOWS}}


def _kept_rows(items: Items, seed: int) -> Iterator[Row]:
    """How far routing moved: ratios of sums, so that a long question counts for its tokens."""
    for group, on in GROUPS.items():
        found = items["kept"][group]
        tokens_N = np.asarray(found["tokens"], dtype=np.float64)
        for layer, kept in zip(items["layers"], found["kept"], strict=True):
            yield _row("overlap", KEPT, on, _ratio(kept, tokens_N, seed), layer=layer)


def _ratio(kept: Sequence[float], tokens_N: Shares, seed: int) -> Estimate:
    kept_N = np.asarray(kept, dtype=np.float64)
    found = bootstrap(
        lambda drawn: float(kept_N[drawn[0]].sum() / tokens_N[drawn[0]].sum()),
        [len(kept_N)],
        seed=seed,
    )
    return _over_questions(found)


def _routed_rows(items: Items, seed: int) -> Iterator[Row]:
    """The answers, and what other routing changes of them."""
    for group, on in GROUPS.items():
        right: Mapping[str, str] = items["right" if group == "forget" else "utility"]
        for way, name in ROUTED.items():
            if name in right:
                role = ROLE_OF.get(way, "model")
                test = way if way in OTHER_ROUTING else "plain"
                answered = _over_questions(mean(shares(right[name]), seed))
                yield _row(test, RIGHT, on, answered, model=role)
        plain = right[ROUTED["after"]]
        for way in OTHER_ROUTING:
            if ROUTED[way] in right:
                treated = right[ROUTED[way]]
                p = mcnemar(*_turned(plain, treated))
                yield _row(way, CHANGE, on, difference(shares(treated), shares(plain), seed), p=p)
        if group == "forget" and ROUTED["restored"] in right:
            back = returned_share(
                *(shares(right[ROUTED[way]]) == 1 for way in ("before", "after", "restored")),
                seed=seed,
            )
            if back is not None:
                yield _row("restored", RETURNED, on, _over_questions(back))


def _turned(before: str, after: str) -> tuple[int, int]:
    """How many were right and no longer are, and the other way round."""
    pairs = list(zip(before, after, strict=True))
    return pairs.count(("1", "0")), pairs.count(("0", "1"))


def _probe_rows(items: Items, seed: int) -> Iterator[Row]:
    """Which answers a linear probe finds, and what it finds beyond the other models'."""
    probed: Mapping[str, Mapping[str, str]] = items["probed"]
    for role, by_layer in probed.items():
        for layer, text in by_layer.items():
            answered = _over_questions(mean(shares(text), seed))
            yield _row("probing", FOUND, GROUPS["forget"], answered, layer=int(layer), model=role)
    for other, figure in FURTHER.items():
        for layer, text in probed.get(other, {}).items():
            beyond = difference(shares(probed["model"][layer]), shares(text), seed)
            yield _row("probing", figure, GROUPS["forget"], beyond, layer=int(layer))


def _row(
    test: str,
    figure: str,
    on: str,
    found: Estimate,
    *,
    model: str = "model",
    layer: int | None = None,
    p: float | None = None,
) -> Row:
    return {
        "test": test,
        "figure": figure,
        "model": model,
        "on": on,
        "layer": layer,
        **found.to_dict(),
        "p": p,
    }


def _over_questions(found: Estimate) -> Estimate:
    method = found.method.replace("bootstrap over items", QUESTIONS)
    return Estimate(found.value, found.low, found.high, found.n, method)


# ---- in words ------------------------------------------------------------------------------------


def _sentences(rows: Sequence[Row], items: Items) -> dict[str, str]:
    said = {"overlap": _moved(rows)}
    for way in OTHER_ROUTING:
        if any(row["test"] == way for row in rows):
            said[way] = _answered(rows, way, items)
    if any(row["test"] == "probing" for row in rows):
        said["probing"] = _pointed(rows)
    return {name: f"{sentence} {SHOWS[name]}" for name, sentence in said.items()}


def _moved(rows: Sequence[Row]) -> str:
    forget, others = (_of(rows, "overlap", KEPT, on) for on in GROUPS.values())
    most = min(forget, key=lambda row: row["value"])
    beside = next(row for row in others if row["layer"] == most["layer"])
    return (
        f"In layer {most['layer']}, where it moved most, routing of the forget questions keeps "
        f"{told(most)} of a token's experts, that of other questions {told(beside)} "
        f"(n={most['n']:,} and {beside['n']:,} questions)."
    )


def _answered(rows: Sequence[Row], way: str, items: Items) -> str:
    on = GROUPS["forget"]
    (plain,) = (row for row in _of(rows, "plain", RIGHT, on) if row["model"] == "model")
    (treated,), (change,) = _of(rows, way, RIGHT, on), _of(rows, way, CHANGE, on)
    changed = f"a change of {told(change, '+.3f')} (n={change['n']:,}, p {p_of(change['p'])})"
    if way == "forced":
        number_of = len(items["forbidden"])
        experts = "1 expert" if number_of == 1 else f"{number_of:,} experts"
        return (
            f"With {experts} forbidden that forget questions use more than in the start model, "
            f"{told(treated)} of the forget questions are answered rightly instead of "
            f"{told(plain)}: {changed}."
        )
    back = _of(rows, way, RETURNED, on)
    share = f", {told(back[0])} of what was lost" if back else ""
    return (
        f"With the start model's routers {told(treated)} of the forget questions are answered "
        f"rightly instead of {told(plain)}: {changed}{share}."
    )


def _pointed(rows: Sequence[Row]) -> str:
    found = _of(rows, "probing", FOUND, GROUPS["forget"])
    best: dict[str, Row] = {}
    for row in found:
        if row["model"] not in best or row["value"] > best[row["model"]]["value"]:
            best[row["model"]] = row
    own = best.pop("model")
    beside = "".join(
        f"; from that of the {ROLE_WORDS[role]} {told(row)} (layer {row['layer']})"
        for role, row in best.items()
    )
    return (
        f"From the {ROLE_WORDS['model']}'s state after a question, a linear probe that was not "
        f"trained on that question finds the answer of {told(own)} of the forget questions (layer "
        f"{own['layer']}, n={own['n']:,}){beside}. These are the best layer of each, which the "
        "intervals do not allow for."
    )


def _of(rows: Sequence[Row], test: str, figure: str, on: str) -> list[Row]:
    return [row for row in rows if (row["test"], row["figure"], row["on"]) == (test, figure, on)]


def told(row: Mapping[str, Any], form: str = ".3f") -> str:
    """A figure with its interval."""
    value = number(row["value"], form)
    if row["low"] is None or row["high"] is None:
        return f"{value} (no interval)"
    return f"{value} [{number(row['low'], form)}, {number(row['high'], form)}]"


def p_of(p: float) -> str:
    """A p-value behind its letter."""
    return "< 0.001" if p < 0.001 else f"= {number(p, '.3f')}"
