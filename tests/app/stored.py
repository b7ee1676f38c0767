"""Runs as they lie on disk, written with numbers a test can check by eye."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from app import state
from tests.support.profiles import synthetic_profile
from trace_engine.config import EvaluationConfig, ProfileConfig, UnlearnConfig
from trace_engine.disk import Appender, write_json
from trace_engine.routing import mismatch
from trace_engine.runs import RunDirectory
from trace_engine.runs.places import new_run_id, subfolder


def estimate(value: float, n: int = 100) -> dict[str, Any]:
    """A number with an interval of a tenth to both sides."""
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": n}


def eval_row(
    step: int, forget: float, utility: float, chance: float | None = 0.25, **more: Any
) -> dict[str, Any]:
    """One evaluation: `hazard` is to be forgotten, `general` and `neighbour` are to be kept.

    `chance` None is a row of before chance was recorded.
    """
    guessing = {} if chance is None else {"chance": chance}
    return {
        "kind": "eval",
        "step": step,
        "accuracy": {
            "hazard": estimate(forget) | guessing,
            "general": estimate(utility, 300) | guessing,
            "neighbour": estimate(utility, 100) | guessing,
        },
        "forget_nll": estimate(1.0 + step),
        "retain_nll": estimate(2.0),
        "drift": {"layers": [1, 3], "overlap": [1.0 - step / 100, 1.0]},
        "held_out": False,
        **more,
    }


def train_row(step: int, loss: float | None = 1.0) -> dict[str, Any]:
    """One optimizer step; `None` is what a non-finite loss looks like on disk."""
    return {
        "kind": "train",
        "step": step,
        "loss": loss,
        "forget_loss": loss,
        "retain_loss": 2.0,
        "ess_share": 0.8,
        "weighted_gap": 0.1,
        "seconds": 0.5,
    }


def unlearn_config(**changes: Any) -> UnlearnConfig:
    """Settings on the bundled sets; nothing is opened by naming them."""
    return UnlearnConfig.model_validate(
        {
            "forget": {"source": "demo:forget"},
            "retain": {"source": "demo:retain"},
            "evaluation": EvaluationConfig(questions="demo:questions/validation"),
            "max_steps": 20,
            **changes,
        }
    )


def write_run(
    home: Path,
    rows: list[dict[str, Any]],
    state: str = "done",
    message: str = "",
    facts: dict[str, Any] | None = None,
    repeats: bool = False,
    **changes: Any,
) -> RunDirectory:
    """A run that ended in `state`, under this home."""
    run = RunDirectory(subfolder("runs", home) / new_run_id())
    with run.create(unlearn_config(**changes)):
        appender = Appender(run.path / "metrics.jsonl")
        for row in rows:
            appender.append({"attempt": 1, **row})
        appender.close()
        if facts is not None:
            write_json(run.path / "facts.json", facts)
        step = max((row["step"] for row in rows), default=0)
        if state == "interrupted":
            run.update(state="running", step=step)
        else:
            run.update(state=state, message=message, step=step, repeats=repeats)
    return run


def open_profile_of(settings: ProfileConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a profile that records these settings in the bundled one's place."""
    profile = synthetic_profile(layers=(1, 3, 6), experts=8)
    profile = dataclasses.replace(
        profile, meta={**profile.meta, "settings": settings.model_dump(mode="json")}
    )
    folder = folder / "profile"
    profile.save(folder)
    mismatch(profile, permutations=999, bootstrap=100).save(folder)
    monkeypatch.setattr(state, "BUNDLED_PATH", folder)
