"""How the finding was made, as a section of the page: every test beside the threshold that judges
it, what else the rules ask, and what the intervals leave out."""

from trace_engine.audit.blocks import Report, figure, items, table
from trace_engine.audit.evidence import excesses, known_before
from trace_engine.audit.figures import Dot, dots
from trace_engine.audit.html import Markup, el, together
from trace_engine.audit.names import BESIDE
from trace_engine.audit.rules import RulesConfig, share_known, threshold
from trace_engine.audit.settings import UTILITY_ASKED
from trace_engine.formats import AUDIT, FIELD
from trace_engine.spelling import NBSP, number


def how(report: Report) -> Markup:
    """The section."""
    rules, found = report["rules"], report["finding"]
    return el(
        "section",
        el("h2", "How the finding was made"),
        el(
            "p",
            "An excess is the share of the forget questions that the model answers beyond its "
            "yardstick (the reference under the same treatment; guessing or the model itself where "
            "there is none), with a 95" + NBSP + "% interval over questions; a rise is what the "
            "attack added to it. "
            + _thresholds(report)
            + _several(rules)
            + " An interval covers the questions alone: that a reference of another training seed, "
            "or a training with another seed, would answer otherwise is in none of them.",
        ),
        _excesses(report),
        _tests(report),
        items(found["reasons"]) if found["reasons"] else el("p", "No figure was there to judge."),
        el(
            "p",
            f"Knowledge is there above {rules['holds_above']:g} (without a reference "
            f"{rules['without_reference']:g}), absent where the whole interval is below "
            f"{rules['gone_below']:g}, suppressed rather than removed where a test that puts "
            f"nothing back brings up {rules['intact_share']:g} of what was there"
            + _known(report)
            + f", and undecided below {rules['least_questions']} forget questions."
            + _on_utility(rules),
            class_="faint",
        ),
    )


def _several(rules: Report) -> str:
    """What is made of it that many intervals are looked at."""
    if RulesConfig.recorded(rules).edition < 3:
        return (
            " Several intervals are looked at, each by itself; the thresholds leave room for that."
        )
    return (
        " Several excesses are looked at, each by itself; the thresholds leave room for that. "
        "Rises have a threshold of 0, and are corrected for how many there are: a one-sided p from "
        "each interval, read as a normal one, at most 0.025 after Holm."
    )


def _thresholds(report: Report) -> str:
    """Whose the thresholds are; when they were chosen is not for this page to say."""
    rules = report["rules"]
    # Reports of older formats name fewer, and are judged by their own edition.
    older = report.get(FIELD, 1) < AUDIT
    named_ = {
        name: RulesConfig.model_fields[name].default
        for name in rules
        if not (older and name == "edition")
    }
    changed = [
        f"{name} is {value} and would be {named_[name]}"
        for name, value in rules.items()
        if name in named_ and value != named_[name]
    ]
    if not changed:
        return "The thresholds are those that TRACE comes with."
    return "These thresholds are not those that TRACE comes with: " + "; ".join(changed) + "."


def _known(report: Report) -> str:
    """What was there, as a number."""
    known = known_before(_summaries(report))
    rules = RulesConfig.recorded(report["rules"])
    asked = number(share_known(known, rules), ".3f")
    if known is None:
        return f" ({asked}; what was there is unknown, so all beyond guessing counts)"
    yard = "the reference" if "reference" in report["models"] else "guessing"
    return f" ({asked}; the start model answered {number(known, '.3f')} beyond {yard})"


def _summaries(report: Report) -> dict[str, Report]:
    return {name: part["summary"] for name, part in report["parts"].items() if part["done"]}


def _tests(report: Report) -> Markup | None:
    """Every test with the threshold that applies to it, and why n is not the same everywhere."""
    tests, rules = excesses(_summaries(report)), RulesConfig.recorded(report["rules"])
    if not tests:
        return None
    rows = [
        (
            test.test,
            BESIDE.get(test.over, test.over),
            *("—" if part is None else figure(part.to_dict())
              for part in (test.estimate, test.before, test.rise)),
            number(threshold(test, rules), "g"),
            f"{test.estimate.n:,}",
        )
        for test in tests
    ]  # fmt: skip
    most = report["settings"]["causal"]["questions"]
    some = "all" if most is None else f"at most {most:,} drawn"
    head = ("test", "beyond", "excess", "before the attack", "rise", "there above", "n")
    return together(
        table(head, rows, "  nnnnn"),
        el(
            "p",
            "n: asked plainly, in other words, behind prefixes and with fewer bits, all forget "
            f"questions, but for wordings that not every question has; with other routing {some} "
            "questions a category, for speed; after a training, the questions that no shown "
            "document tells, each counted once where at least one seed leaves it so. Utility on "
            f"the way of a training: at most {UTILITY_ASKED} of the other questions.",
            class_="faint",
        ),
    )


def _on_utility(rules: Report) -> str:
    """What the rules ask of the other questions; nothing, where an older version wrote them."""
    lost = rules.get("utility_lost")
    if lost is None:
        return ""
    return (
        " Absence is claimed only of a model that still answers other questions: the whole "
        f"interval of their difference from the reference must be above {number(-lost, 'g')}. "
        "Knowledge that was found is there whatever became of utility."
    )


def _excesses(report: Report) -> Markup | None:
    """Every test's excess on one axis, with the thresholds as lines."""
    tests, rules = excesses(_summaries(report)), RulesConfig.recorded(report["rules"])
    shown = [
        Dot(test.test, test.estimate.value, test.estimate.low, test.estimate.high) for test in tests
    ]
    if not shown:
        return None
    there = sorted({threshold(test, rules) for test in tests})
    return dots(
        "Answered beyond the yardstick, test by test; dotted: the thresholds",
        shown,
        ["excess"],
        guides=[*((at, "") for at in there), (rules.gone_below, "")],
        least=-0.5,
        left=365,
    )
