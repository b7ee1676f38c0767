"""Runs on the bundled model: settings that suit a small model that has memorised what it knows.

Chosen on validation questions with one seed (design/LOG.md), not from the literature: a model at
100 % with a loss near its floor needs larger steps and a stronger retain term than a real one.
Everything that is not named here is the engine's default.
"""

from typing import Any

from trace_engine.bundled import is_bundled
from trace_engine.config import EvaluationConfig, SetConfig, UnlearnConfig, WeightsConfig
from trace_engine.methods import METHODS, MethodName

TUNED: dict[MethodName, dict[str, Any]] = {
    "npo": {"alpha": 16.0, "beta": 0.03, "learning_rate": 1e-3, "batch_size": 32},
    "graddiff": {"alpha": 16.0, "learning_rate": 2e-3, "batch_size": 16, "max_steps": 100},
    "rmu": {"alpha": 16.0, "steering": 160.0, "learning_rate": 1e-3, "batch_size": 16},
    "wga": {"alpha": 0.25, "learning_rate": 1e-3, "batch_size": 16, "max_steps": 100},
    "satimp": {"alpha": 0.1, "learning_rate": 4e-3, "batch_size": 16, "max_steps": 100},
    "simnpo": {"alpha": 0.25, "learning_rate": 6e-3, "batch_size": 16, "max_steps": 100},
    "undial": {"alpha": 0.1, "learning_rate": 4e-3, "batch_size": 16, "max_steps": 100},
    "ga": {"learning_rate": 7e-4, "batch_size": 16, "max_steps": 20},
    "ceu": {"alpha": 0.5, "learning_rate": 1e-3, "batch_size": 16, "max_steps": 100},
    "dpo": {"alpha": 8.0, "beta": 0.05, "learning_rate": 2e-3, "batch_size": 16, "max_steps": 60},
}
"""By method, the training settings in which a bundled run differs from the engine's defaults: the
best of four or more on validation questions with uniform weights (the pack's bench.yaml)."""
UNTUNED: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 16}
"""What the other methods start from; the engine's learning rate is for models a thousand times as
large."""
FIELDS = ("alpha", "beta", "steering", "learning_rate", "batch_size", "max_steps")
TUNED_METHOD: MethodName = "npo"
"""The method of the bundled run."""
UNTUNED_NOTE = (
    "Nobody has tuned this method for the bundled model: its α, learning rate and steps are a "
    "guess to start from."
)
"""What a person who takes a method that is not in `TUNED` is to know."""
QUESTIONS_PER_GROUP = 100
"""Enough for intervals of about ten points either side, few enough for a live curve."""


def bundled_run(
    name: str = "", steps: int | None = None, method: MethodName = TUNED_METHOD
) -> UnlearnConfig:
    """A method with TRACE weights over the bundled sets, judged on the validation questions; plain
    where the method has no retain term to weigh, on prompts with answers where it needs them."""
    values = TUNED.get(method, UNTUNED)
    values = values if steps is None else values | {"max_steps": steps}
    if not METHODS[method].retains:
        values = values | {"weights": WeightsConfig(rule="uniform")}
    return UnlearnConfig(
        name=name,
        method=method,
        forget=SetConfig(source="demo:forget_pairs" if METHODS[method].pairs else "demo:forget"),
        retain=SetConfig(source="demo:retain"),
        evaluation=EvaluationConfig(
            questions="demo:questions/validation", max_questions=QUESTIONS_PER_GROUP
        ),
        **values,
    )


def defaults_for(model_source: str, method: MethodName = TUNED_METHOD) -> dict[str, Any]:
    """Training settings to start from, by field of `FIELDS`: those that suit a bundled model, else
    the engine's."""
    fields = {name: UnlearnConfig.model_fields[name].default for name in FIELDS}
    return fields | TUNED.get(method, UNTUNED) if is_bundled(model_source) else fields
