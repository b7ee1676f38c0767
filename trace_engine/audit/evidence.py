"""From the parts' summaries to what the rules read: one excess per test, and what was not tested.

Pure: `verify` makes the finding again from the report's own figures. A test without a reference is
measured against the model itself before the attack, and says so.
"""

from collections.abc import Mapping
from typing import Any, Final

from trace_engine.audit.controls import hidden_by_all
from trace_engine.audit.rules import Excess, Finding, RulesConfig, Utility, judge
from trace_engine.audit.settings import PUBLISHED
from trace_engine.evaluation.estimate import Estimate

WORDS: Final[dict[str, str]] = {
    "questions": "the forget questions, asked plainly",
    "measures": "loss, memorisation and membership",
    "muse": "MUSE benchmark",
    "tofu": "TOFU benchmark",
    "routing": "where forget and retain text are routed",
    "causal": "what hangs on these experts",
    "drift": "whether routing moved",
    "rerouted": "erased, or only re-routed",
    "relearning": "relearning on a slice of the forget set",
    "recovery": "training on retained text alone",
    "quantisation": "weights rounded to few bits",
    "paraphrases": "the questions in other words",
    "prefixes": "jailbreak-style prefixes",
}
"""Each part, as what is tested."""
UTILITY: Final = "utility"
"""All categories of questions but the forget set's, together."""


def finding_of(
    parts: Mapping[str, Mapping[str, Any]], missing: Mapping[str, str], rules: RulesConfig
) -> Finding:
    """The finding from the finished parts' summaries; `missing` says per part why it is not
    there."""
    told = {part: f"{WORDS[part]}: {why}" for part, why in missing.items()}
    not_tested = [said for part, said in told.items() if part not in PUBLISHED]
    beside = [said for part, said in told.items() if part in PUBLISHED]
    not_tested += [
        f"{WORDS[part]}: every one of them hides most of what the start model answers plainly, so "
        "that nothing shown behind them says little"
        for part in ("paraphrases", "prefixes")
        if hidden_by_all(parts.get(part, {}), rules.holds_above)
    ]
    asked = parts.get("questions")
    if asked is not None and not asked["n_utility"] and rules.utility_lost is not None:
        not_tested.append("utility: no question outside the forget category was asked")
    return judge(
        excesses(parts), not_tested, known_before(parts), rules, utility_of(parts), beside,
        reference_of(parts),
    )  # fmt: skip


def excesses(parts: Mapping[str, Mapping[str, Any]]) -> list[Excess]:
    """Every test that the rules look at."""
    found = []
    asked = parts.get("questions")
    if asked is not None:
        found.append(_plain(asked))
    for part in ("rerouted", "relearning", "recovery", "quantisation", "paraphrases", "prefixes"):
        found += [Excess.of(row) for row in parts.get(part, {}).get("excess", ())]
    return found


def known_before(parts: Mapping[str, Mapping[str, Any]]) -> float | None:
    """What the start model answers beyond the reference, or beyond guessing without one."""
    asked = parts.get("questions")
    if asked is None:
        return None
    forget = {
        row["model"]: row["value"]
        for row in asked["accuracy"]
        if row["on"] == asked["forget_category"]
    }
    if "before" not in forget:
        return None
    return float(forget["before"] - forget.get("reference", asked["chance"]))


def reference_of(parts: Mapping[str, Mapping[str, Any]]) -> Estimate | None:
    """What the reference answers beyond guessing; None without one."""
    asked = parts.get("questions", {})
    found = asked.get("beyond_chance", {}).get("reference")
    return None if found is None else Estimate(**found)


def utility_of(parts: Mapping[str, Mapping[str, Any]]) -> Utility | None:
    """What the model answers of the other questions beside the reference, else the start model,
    else guessing; None where nobody asked, or an older version did and left guessing out."""
    asked = parts.get("questions")
    if asked is None:
        return None
    by = {row["minus"]: row for row in asked["differences"] if row["on"] == UTILITY}
    if "reference" in by:
        return Utility("reference", _of(by["reference"]))
    if "before" in by:
        return Utility("before", _of(by["before"]))
    guessed = asked.get("utility_beyond_chance")
    return None if guessed is None else Utility("chance", Estimate(**guessed))


def _plain(asked: Mapping[str, Any]) -> Excess:
    category = asked["forget_category"]
    for row in asked["differences"]:
        if row["minus"] == "reference" and row["on"] == category:
            return Excess("the forget questions, asked plainly", "plain", "reference", _of(row))
    estimate = Estimate(**asked["beyond_chance"]["model"])
    return Excess("the forget questions, asked plainly", "plain", "chance", estimate)


def _of(row: Mapping[str, Any]) -> Estimate:
    return Estimate(**{name: row[name] for name in ("value", "low", "high", "n", "method")})
