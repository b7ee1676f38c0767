"""Evaluation: estimates with intervals, loss of a set, multiple choice, knowledge check, routing
probe; memorisation and membership; `evaluate` over any of them.

Names are loaded when first used: an interval costs a page no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trace_engine.evaluation.estimate import Estimate, cluster_mean, wilson
    from trace_engine.evaluation.families import Accuracy, Evaluation, Loss, evaluate
    from trace_engine.evaluation.generation import continue_texts
    from trace_engine.evaluation.knowledge import KnowledgeCheck, knowledge_check
    from trace_engine.evaluation.loss import set_loss
    from trace_engine.evaluation.materials import Materials, families_of
    from trace_engine.evaluation.measured import Measured
    from trace_engine.evaluation.membership import Membership
    from trace_engine.evaluation.memorisation import Memorisation
    from trace_engine.evaluation.multiple_choice import ChoiceScores, score_questions
    from trace_engine.evaluation.muse import Muse
    from trace_engine.evaluation.probe import routing_probe
    from trace_engine.evaluation.resampling import bootstrap, bootstrap_mean
    from trace_engine.evaluation.tofu import Tofu

_MODULES: dict[str, tuple[str, ...]] = {
    "resampling": ("bootstrap", "bootstrap_mean"),
    "estimate": ("Estimate", "cluster_mean", "wilson"),
    "families": ("Accuracy", "Evaluation", "Loss", "evaluate"),
    "generation": ("continue_texts",),
    "knowledge": ("KnowledgeCheck", "knowledge_check"),
    "loss": ("set_loss",),
    "materials": ("Materials", "families_of"),
    "measured": ("Measured",),
    "membership": ("Membership",),
    "memorisation": ("Memorisation",),
    "multiple_choice": ("ChoiceScores", "score_questions"),
    "muse": ("Muse",),
    "probe": ("routing_probe",),
    "tofu": ("Tofu",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "Accuracy",
    "ChoiceScores",
    "Estimate",
    "Evaluation",
    "KnowledgeCheck",
    "Loss",
    "Materials",
    "Measured",
    "Membership",
    "Memorisation",
    "Muse",
    "Tofu",
    "bootstrap",
    "bootstrap_mean",
    "cluster_mean",
    "continue_texts",
    "evaluate",
    "families_of",
    "knowledge_check",
    "routing_probe",
    "score_questions",
    "set_loss",
    "wilson",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
