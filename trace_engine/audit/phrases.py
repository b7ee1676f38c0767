"""What the rules read, in words: figures with their intervals, and beside what they stand."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from trace_engine.evaluation.estimate import Estimate
from trace_engine.spelling import number

if TYPE_CHECKING:
    from trace_engine.audit.rules import Excess, Utility

_SIGNED_ZERO = re.compile(r"[+\N{MINUS SIGN}](0\.0+)(?!\d)")


def bare(value: Any) -> Any:
    """What two versions of TRACE say alike: text without spaces and without a zero's sign. Older
    ones wrote −0.000 where less than zero was rounded, and some units without a space.
    Anything but text as it is."""
    if isinstance(value, str):
        return _SIGNED_ZERO.sub(r"\1", "".join(value.split()))
    if isinstance(value, dict):
        return {name: bare(one) for name, one in value.items()}
    return [bare(one) for one in value] if isinstance(value, list) else value


def fewer(utility: Utility) -> str:
    than = {"reference": "the reference", "before": "the start model", "chance": "guessing would"}
    points = f"{abs(round(100 * utility.estimate.value, 1)):g} percentage points"
    direction = "fewer" if utility.estimate.value < 0 else "more"
    return f"{points} {direction} of all other questions than {than[utility.over]}"


def than(test: Excess) -> str:
    return {
        "reference": "than the reference",
        "untreated": "than the reference, asked plainly",
        "chance": "than guessing would",
        "itself": "than as it is",
    }[test.over]


def more(test: Excess) -> str:
    value = round(100 * test.estimate.value, 1)
    if value == 0:
        return f"as many of the forget questions {than(test).replace('than', 'as')}"
    direction = "more" if value > 0 else "fewer"
    return f"{abs(value):g} percentage points {direction} of the forget questions {than(test)}"


def interval(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{number(estimate.value, '+.3f')}, no interval, n={estimate.n}"
    low, high = number(estimate.low, "+.3f"), number(estimate.high, "+.3f")
    return f"{number(estimate.value, '+.3f')} [{low}, {high}], n={estimate.n}"


def told_test(test: Excess) -> str:
    yard = {
        "reference": "the reference",
        "untreated": "the reference, asked plainly",
        "chance": "guessing",
        "itself": "the model as it is",
    }
    said = f"{test.test}: {interval(test.estimate)} beyond {yard[test.over]}"
    if test.before is not None and test.rise is not None:
        said += f"; before it {interval(test.before)}, rise {interval(test.rise)}"
    if test.learned is not None:
        said += f"; of the answers that it showed the model learned {interval(test.learned)}"
    return said
