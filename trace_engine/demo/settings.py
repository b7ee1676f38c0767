"""The bundled model's run: settings that suit a small model that has memorised what it knows.

Chosen on validation questions with one seed (design/LOG.md), not from the literature: a model at
100 % with a loss near its floor needs larger steps and a stronger retain term than a real one.
Everything that is not named here is the engine's default.
"""

from typing import Any

from trace_engine.bundled import is_bundled
from trace_engine.config import EvaluationConfig, SetConfig, UnlearnConfig
from trace_engine.methods import MethodName

TUNED: dict[str, Any] = {
    "alpha": 16.0,
    "beta": 0.03,
    "learning_rate": 1e-3,
    "batch_size": 32,
}
"""Training settings in which the bundled run differs from the engine's defaults."""
TUNED_METHOD: MethodName = "npo"
"""The method they were tuned for, and the only one."""
TUNED_NOTE = (
    "The bundled model's defaults for α, learning rate and batch size were tuned for NPO only; "
    "other methods may forget hardly anything with them (GradDiff), or nothing (SimNPO): try a "
    "lower α first."
)
"""What a person who takes them with another method is to know."""
QUESTIONS_PER_GROUP = 100
"""Enough for intervals of about ten points either side, few enough for a live curve."""


def bundled_run(name: str = "", steps: int = 60) -> UnlearnConfig:
    """TRACE weights on NPO over the bundled sets, judged on the validation questions."""
    return UnlearnConfig(
        name=name,
        method=TUNED_METHOD,
        forget=SetConfig(source="demo:forget"),
        retain=SetConfig(source="demo:retain"),
        max_steps=steps,
        evaluation=EvaluationConfig(
            questions="demo:questions/validation", max_questions=QUESTIONS_PER_GROUP
        ),
        **TUNED,
    )


def defaults_for(model_source: str) -> dict[str, Any]:
    """Training settings to start from: the tuned ones for a bundled model, else the engine's."""
    fields = {name: UnlearnConfig.model_fields[name].default for name in TUNED}
    return TUNED if is_bundled(model_source) else fields
