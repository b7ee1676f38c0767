"""Attacks on a model that was unlearned: is the knowledge gone, or does it come back?

Relearning on a slice of the forget set, training on retained text alone, weights rounded to few
bits, the same questions in other words, and prefixes that ask for a refusal to give way. Each
returns right and wrong per question, so that two models under the same attack are compared question
by question.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trace_engine.attacks.asking import ask_in_other_words, ask_quantised
    from trace_engine.attacks.quantising import quantised, round_to_nearest
    from trace_engine.attacks.relearning import Relearned, relearn, retained_only
    from trace_engine.attacks.wordings import Wording, paraphrases, prefixes

_MODULES: dict[str, tuple[str, ...]] = {
    "asking": ("ask_in_other_words", "ask_quantised"),
    "quantising": ("quantised", "round_to_nearest"),
    "relearning": ("Relearned", "relearn", "retained_only"),
    "wordings": ("Wording", "paraphrases", "prefixes"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "Relearned",
    "Wording",
    "ask_in_other_words",
    "ask_quantised",
    "paraphrases",
    "prefixes",
    "quantised",
    "relearn",
    "retained_only",
    "round_to_nearest",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"trace_engine.attacks.{_HOME[name]}"), name)
