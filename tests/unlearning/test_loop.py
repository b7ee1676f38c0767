"""The one loop, on a session that only counts: what it calls, and in which order."""

from typing import Any

import pytest

from trace_engine.config import UnlearnConfig
from trace_engine.unlearning import drive


class Counting:
    """A session without a model."""

    def __init__(self, step: int = 0, **settings: Any) -> None:
        base = {"forget": {"source": "f"}, "retain": {"source": "r"}, "max_steps": 7}
        self.config = UnlearnConfig.model_validate(base | settings)
        self.step = step
        self.log: list[str] = []

    @property
    def finished(self) -> bool:
        return self.step >= self.config.max_steps

    def train_step(self) -> dict[str, Any]:
        self.step += 1
        return {"kind": "train", "step": self.step}

    def evaluate(self) -> dict[str, Any]:
        return {"kind": "eval", "step": self.step}

    def drive(self, **hooks: Any) -> str:
        return drive(
            self,
            on_row=lambda row: self.log.append(f"{row['kind']} {row['step']}"),
            on_checkpoint=lambda: self.log.append(f"save {self.step}"),
            **hooks,
        )


def test_order_of_a_whole_run() -> None:
    session = Counting(evaluation={"every": 3}, checkpoint_every=2)
    assert session.drive() == "done"
    assert session.log == [
        "eval 0",
        "train 1",
        *("train 2", "save 2"),
        *("train 3", "eval 3"),
        *("train 4", "save 4"),
        "train 5",
        *("train 6", "eval 6", "save 6"),
        *("train 7", "eval 7", "save 7"),
    ]


def test_a_resumed_run_does_not_evaluate_its_start_again() -> None:
    session = Counting(step=5, evaluation={"every": 3}, checkpoint_every=20)
    assert session.drive() == "done"
    assert session.log == ["train 6", "eval 6", "train 7", "eval 7", "save 7"]


def test_a_resumed_finished_run_does_nothing() -> None:
    session = Counting(step=7)
    assert session.drive() == "done"
    assert session.log == []


@pytest.mark.parametrize(
    ("at", "saves"), [(1, ["save 1"]), (2, ["save 2"]), (3, ["save 2", "save 3"])]
)
def test_stopping_saves_what_is_not_saved_yet(at: int, saves: list[str]) -> None:
    session = Counting(checkpoint_every=2)
    assert session.drive(should_stop=lambda: session.step == at) == "stopped"
    assert [line for line in session.log if line.startswith("save")] == saves
    assert session.step == at


def test_stopping_before_the_first_update_saves_nothing() -> None:
    session = Counting()
    assert session.drive(should_stop=lambda: True) == "stopped"
    assert session.log == ["eval 0"]


def test_a_run_without_checkpoints_is_driven_to_its_end() -> None:
    session = Counting()
    assert drive(session, on_row=lambda row: None) == "done"
    assert session.finished
