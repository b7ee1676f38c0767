"""Evaluation: estimates with intervals, loss of a set, multiple choice, knowledge check, routing
probe.
"""

from trace_engine.evaluation.estimate import Estimate, cluster_mean, wilson
from trace_engine.evaluation.knowledge import KnowledgeCheck, knowledge_check
from trace_engine.evaluation.loss import set_loss
from trace_engine.evaluation.multiple_choice import ChoiceScores, score_questions
from trace_engine.evaluation.probe import routing_probe

__all__ = [
    "ChoiceScores",
    "Estimate",
    "KnowledgeCheck",
    "cluster_mean",
    "knowledge_check",
    "routing_probe",
    "score_questions",
    "set_loss",
    "wilson",
]
