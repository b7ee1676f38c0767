"""The bare loop that a session is timed against makes the same updates as the session."""

from pathlib import Path

import pytest
import torch

from bench import unlearn_step
from tests.support.models import save_tiny_olmoe
from trace_engine.unlearning import Session


@pytest.mark.parametrize("method", unlearn_step.METHODS)
def test_a_bare_step_is_the_sessions_step(tmp_path: Path, method: str) -> None:
    save_tiny_olmoe(tmp_path / "model")
    steps = 3
    config = unlearn_step.configuration(tmp_path / "model", method, "uniform", steps)
    with Session(config) as session, Session(config, profile=session.profile) as other:
        bare = unlearn_step.BareLoop(other, method)
        start = {n: p.detach().clone() for n, p in session.opened.model.named_parameters()}
        for _ in range(steps):
            session.train_step()
            assert bare.train_step() > 0
        found = dict(other.opened.model.named_parameters())
        moved = 0.0
        for name, parameter in session.opened.model.named_parameters():
            torch.testing.assert_close(found[name], parameter, rtol=0, atol=2e-5)
            moved = max(moved, float((parameter - start[name]).detach().abs().max()))
    # Three steps of AdamW at this rate: what is compared has changed far beyond the tolerance.
    assert moved > 2 * unlearn_step.RATE


def test_steps_are_taken_in_turn_there_and_back_and_warm_ones_dropped() -> None:
    order: list[str] = []
    clock = {"a": iter(range(1, 100)), "b": iter(range(101, 200))}

    def step(name: str) -> float:
        order.append(name)
        return float(next(clock[name]))

    ones, others = unlearn_step.in_turn(lambda: step("a"), lambda: step("b"), 3)
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b", "b", "a"]
    assert ones == [3.0, 4.0, 5.0]
    assert others == [103.0, 104.0, 105.0]


def test_a_ratio_is_of_pairs_not_of_medians() -> None:
    found = unlearn_step.ratio("x", "npo", [1.0, 4.0, 9.0], [1.0, 2.0, 30.0], target=None)
    assert found.median == 1.0
    assert (found.seconds, found.reference_seconds, found.pairs) == (4.0, 2.0, 3)
