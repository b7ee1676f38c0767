"""ROUGE-L through Google's `rouge-score`, the package that MUSE and TOFU are scored with."""

from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True, slots=True)
class Rouge:
    """Longest common subsequence of words between a text and what it should be."""

    recall: float
    f1: float


def rouge_l(reference: str, text: str, *, stemmer: bool = False) -> Rouge:
    """ROUGE-L of a text against its reference; 0 where either has no word.

    Source: C.-Y. Lin, ROUGE (2004), section 3, as in the package rouge-score: lower case, words of
    letters and digits; `stemmer` is Porter's.
    """
    found = _scorer(stemmer).score(reference, text)["rougeL"]
    return Rouge(float(found.recall), float(found.fmeasure))


def package() -> str:
    """The scoring package with its version, for an implementation's name."""
    return f"rouge-score {version('rouge-score')}"


@cache
def _scorer(stemmer: bool) -> Any:
    # Imported late: it brings a language toolkit that nothing else needs.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=stemmer)
