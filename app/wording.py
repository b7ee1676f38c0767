"""Sentences and number formats that several pages share, so that one thing has one name everywhere.

Activation is evidence of use, not of knowledge: nothing here says that an expert holds anything.
"""

import math
import re

from app import house
from trace_engine.spelling import NBSP, NINETY_FIVE, number, percent, points

__all__ = ["NBSP", "NINETY_FIVE", "number", "percent", "points"]

ABOUT = (
    "TRACE measures which experts of a Mixture-of-Experts language model a forget set uses more "
    "than a retain set does, and calibrates unlearning by it. Method: Routing-Aware Expert "
    "Calibration for Machine Unlearning in Mixture-of-Experts Language Models (arXiv 2606.10338)."
)
SET_NAMES = {
    "demo:forget": "hazard facts",
    "demo:forget_pairs": "hazard facts as answers",
    "demo:retain": "prose with some facts",
    "demo:retain_prose": "prose",
    "demo:retain_facts": "retained general facts",
    "demo:prose_other": "other prose",
    "demo:general_facts": "general facts",
    "demo:book_forget": "the book",
    "demo:book_retain": "prose with some facts",
    "demo:book_holdout": "unseen pages of the book",
}
"""Bundled sets in words; any other set is called what its file is called."""
MODEL_NAMES = {
    "demo:target": "the bundled model",
    "demo:retrain_no_hazard": "the bundled model retrained without hazard facts",
    "demo:retrain_no_book": "the bundled model retrained without the book",
}
NO_PROFILE = (
    "No routing profile is here yet: this checkout has no bundled profile. "
    "Open Data & model and profile a model on two sets."
)
ONLY_ACTIVATION = (
    "Activation shows which experts these tokens use more, not where knowledge is stored. "
    "Evidence of cause needs an ablation."
)


def interval(low: float, high: float, digits: int = 1, scale: float = 100.0) -> str:
    """A 95 % interval; an open end is written as such."""
    ends = [
        number(scale * end, f"z.{digits}f") if math.isfinite(end) else "unbounded"
        for end in (low, high)
    ]
    return f"{NINETY_FIVE} CI {ends[0]} to {ends[1]}"


def ratio(value: float) -> str:
    """How many times as much."""
    if not math.isfinite(value):
        return "not computable"
    return f"{value:.2g}×" if value < 1 else f"{value:.1f}×"


def p_value(p: float, permutations: int | None = None) -> str:
    """A permutation p-value; never smaller than what so many permutations can show."""
    if not math.isfinite(p):
        return "p not computed"
    least = 1 / (permutations + 1) if permutations else 0.0
    # A rank test cannot tell anything below its least p from that p.
    if p <= least * (1 + 1e-9):
        return f"p{NBSP}≤{NBSP}{least:.2g}"
    return f"p{NBSP}={NBSP}{p:.{3 if p >= 0.001 else 4}f}"


def count(number: int) -> str:
    """A whole number with thin spaces between thousands."""
    return f"{number:,}".replace(",", "\u202f")


def duration(seconds: float | None) -> str:
    """How long something takes, for a person."""
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def plain(text: str) -> str:
    """Anyone's text as Markdown that renders as itself: no image, link, HTML or formula in it; and,
    for visitors, no folder of the server."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$:])", r"\\\1", house.shown(text))
