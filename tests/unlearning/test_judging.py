"""Early stop and the best evaluation: the rules by hand, and whole runs that obey them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load, save

from tests.unlearning.cases import tiny_config, without_clock, write_questions
from trace_engine.config import KeepConfig, StopConfig, UnlearnConfig, identity_of
from trace_engine.errors import InputError, RunError
from trace_engine.models import open_model
from trace_engine.unlearning import Session, drive, unlearn
from trace_engine.unlearning.judging import Best, Standing, better, standing, why_kept, why_stop

QUESTIONS = {"questions": "demo:questions/validation"}


def cell(right: int, n: int) -> dict[str, Any]:
    return {"value": right / n, "n": n}


def test_utility_is_pooled_over_all_other_questions(tmp_path: Path) -> None:
    """3 of 4 and 10 of 100 are 13 of 104, not the mean of 0.75 and 0.1."""
    config = tiny_config(tmp_path, evaluation=QUESTIONS)
    row = {"accuracy": {"hazard": cell(1, 4), "general": cell(3, 4), "other": cell(10, 100)}}
    assert standing(row, config) == (0.25, pytest.approx(13 / 104))
    losses = {"forget_nll": {"value": 2.5}, "retain_nll": {"value": 0.5}}
    assert standing(losses, tiny_config(tmp_path)) == (-2.5, -0.5)


@pytest.mark.parametrize(
    ("rule", "found", "sentence"),
    [
        ({"forget_at_most": 0.3}, (0.3, 0.9), "forget accuracy 0.3 is at most 0.3"),
        ({"forget_at_most": 0.3}, (0.31, 0.0), None),
        ({"utility_at_least": 0.6}, (0.9, 0.59), "utility 0.59 is below 0.6"),
        ({"utility_at_least": 0.6}, (0.9, 0.6), None),
        ({"forget_loss_at_least": 3}, (-3.0, -9.0), "held-out forget loss 3 is at least 3"),
        ({"forget_loss_at_least": 3}, (-2.9, -9.0), None),
        ({"retain_loss_at_most": 2}, (-9.0, -2.5), "held-out retain loss 2.5 is above 2"),
        ({"retain_loss_at_most": 2}, (-9.0, -2.0), None),
        ({}, (0.0, 0.0), None),
        (
            {"forget_at_most": 0.3, "utility_at_least": 0.6},
            (0.2, 0.1),
            "forget accuracy 0.2 is at most 0.3",
        ),
    ],
)
def test_a_run_ends_at_its_threshold_and_says_which(
    rule: dict[str, float], found: tuple[float, float], sentence: str | None
) -> None:
    assert why_stop(StopConfig.model_validate(rule), Standing(*found)) == sentence


shares = st.integers(0, 8).map(lambda n: n / 8)


@given(st.lists(st.tuples(shares, shares), min_size=1, max_size=8), shares)
def test_the_best_is_the_one_that_the_rule_names(
    path: list[tuple[float, float]], threshold: float
) -> None:
    keep = KeepConfig(which="best", forget_at_most=threshold)
    best: Best | None = None
    for number, found in enumerate(path, start=1):
        best = better(best, number, Standing(*found), keep)
    assert best is not None
    enough = [number for number, (forget, _) in enumerate(path, 1) if forget <= threshold]
    if enough:
        highest = max(path[n - 1][1] for n in enough)
        assert best.step in enough
        assert path[best.step - 1][1] == highest
    else:
        assert path[best.step - 1][0] == min(forget for forget, _ in path)
    same = [n for n, found in enumerate(path, 1) if found == path[best.step - 1]]
    assert best.step == same[0], "the earlier of equals"
    assert (best.enough, best.evaluations) == (bool(enough), len(path))
    assert best.candidates == len(enough)
    assert Best.from_dict(json.loads(json.dumps(best.to_dict()))) == best


def test_why_it_was_kept_is_said_with_its_figures(tmp_path: Path) -> None:
    keep = {"which": "best", "forget_at_most": 0.3}
    config = tiny_config(tmp_path, evaluation=QUESTIONS, keep=keep)
    found = why_kept(Best(20, 0.28, 0.61, True, 6, 2), config)
    assert found.startswith(
        "The model of step 20 is saved: of 2 evaluations with forget accuracy at most 0.3 it has "
        "the largest utility (0.61)."
    )
    assert "the run's own questions" in found
    found = why_kept(Best(60, 0.34, 0.5, False, 6, 0), config)
    assert "none of 6 evaluations reached forget accuracy at most 0.3, and it has" in found
    keep = {"which": "best", "forget_loss_at_least": 3.0}
    found = why_kept(Best(10, -3.5, -0.75, True, 4, 1), tiny_config(tmp_path, keep=keep))
    assert "of 1 evaluation with held-out forget loss at least 3 it has the smallest" in found
    assert "(0.75)" in found


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stop": {"forget_at_most": 0.3}}, r"stop\.forget_at_most is an accuracy.*is empty"),
        ({"stop": {"utility_at_least": 0.3}}, r"stop\.utility_at_least is an accuracy"),
        (
            {"stop": {"forget_loss_at_least": 3}, "evaluation": QUESTIONS},
            r"forget_loss_at_least is a held-out loss.*trained on",
        ),
        ({"stop": {"retain_loss_at_most": 3}, "evaluation": QUESTIONS}, "is a held-out loss"),
        ({"keep": {"which": "best"}}, "nothing says how much must be forgotten"),
        ({"keep": {"forget_at_most": 0.0}}, "forget_at_most is given and which is last"),
        ({"keep": {"which": "best", "forget_at_most": 0.3}}, r"keep\.forget_at_most is an acc"),
        ({"stop": {"forget_at_most": 1.2}, "evaluation": QUESTIONS}, "less than or equal to 1"),
    ],
)
def test_rules_that_cannot_be_judged_are_refused(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        tiny_config(tmp_path, **settings)


@pytest.mark.parametrize(
    "rule", [{"stop": {"utility_at_least": 0.1}}, {"keep": {"which": "best", "forget_at_most": 0}}]
)
def test_utility_needs_questions_of_another_category(tmp_path: Path, rule: dict[str, Any]) -> None:
    path = write_questions(tmp_path)
    hazards = [
        line for line in path.read_text().splitlines() if json.loads(line)["category"][0] == "h"
    ]
    path.write_text("\n".join(hazards))
    config = tiny_config(tmp_path, evaluation={"questions": str(path)}, **rule)
    with pytest.raises(InputError, match=r"asks for utility, and .* only questions of the"):
        Session(config)


def test_runs_from_before_the_rules_have_the_same_identity(tmp_path: Path) -> None:
    assert not {"stop", "keep"} & set(identity_of(tiny_config(tmp_path)))
    with_rule = identity_of(tiny_config(tmp_path, stop={"forget_loss_at_least": 4}))
    assert with_rule["stop"]["forget_loss_at_least"] == 4
    assert "keep" not in with_rule


def path_of(config: UnlearnConfig) -> list[tuple[int, float, float]]:
    """Step, forget and retain loss of each evaluation after the start."""
    with Session(config) as session:
        rows: list[dict[str, Any]] = []
        drive(session, on_row=rows.append)
    return [
        (row["step"], row["forget_nll"]["value"], row["retain_nll"]["value"])
        for row in rows
        if row["kind"] == "eval" and row["step"]
    ]


EVERY_2 = {"evaluation": {"every": 2, "held_out": 0.2}, "max_steps": 8}
ASCENT = {"method": "ga", "weights": {"rule": "uniform"}, "warmup_steps": 0}
"""Breaks the retain side more with every step, so that the last evaluation is not the best."""


def test_a_run_ends_where_its_rule_is_met_and_stays_ended(tmp_path: Path) -> None:
    path = path_of(tiny_config(tmp_path, **EVERY_2))
    (_, low, _), (at, high, _) = path[1:3]
    assert low < high
    config = tiny_config(tmp_path, **EVERY_2, stop={"forget_loss_at_least": (low + high) / 2})
    saves: list[int] = []
    with Session(config) as session:
        reason = drive(
            session, on_row=lambda row: None, on_checkpoint=lambda: saves.append(session.step)
        )
        assert (reason, session.step, session.finished) == ("done", at, True)
        assert (
            session.ended == f"held-out forget loss {high:.4g} is at least {(low + high) / 2:.4g}"
        )
        assert session.keep() == {"step": at, "sentence": ""}
        tensors, data = session.state()
        with pytest.raises(RunError, match=rf"all its {at} updates it will make: held-out forget"):
            session.train_step()
    assert saves[-1] == at
    with Session(config) as resumed:
        resumed.load_state(load(save(tensors)), json.loads(json.dumps(data)))
        later: list[dict[str, Any]] = []
        assert drive(resumed, on_row=later.append) == "done"
        assert (later, resumed.step) == ([], at)


def test_the_start_ends_nothing(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, max_steps=1, stop={"forget_loss_at_least": 1e-6})
    with Session(config) as session:
        session.evaluate()
        assert not session.finished
        session.train_step()
        session.evaluate()
        assert session.ended is not None


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [{"kind": "all"}, {"kind": "lora", "lora_rank": 2}])
def test_the_best_evaluations_weights_are_those_that_are_saved(
    tmp_path: Path, trainable: dict[str, Any]
) -> None:
    settings = {**EVERY_2, "trainable": trainable, **ASCENT}
    path = path_of(tiny_config(tmp_path, **settings))
    # The threshold that only the evaluations from the second on reach.
    goal = (path[0][1] + path[1][1]) / 2
    step = min((row for row in path if row[1] >= goal), key=lambda row: row[2])[0]
    assert step != 8, "the last would be saved anyhow, and the test could not fail"
    best = tiny_config(tmp_path, **settings, keep={"which": "best", "forget_loss_at_least": goal})
    short = tiny_config(tmp_path, **{**settings, "max_steps": step})
    with Session(short) as session:
        drive(session, on_row=lambda row: None)
        expected = {name: t.clone() for name, t in session.trainable.tensors().items()}
    result = unlearn(best, out=tmp_path / "out")
    try:
        assert result.session.step == 8
        assert (result.kept["step"], result.facts["kept"]) == (step, result.kept)
        assert result.kept["best"]["evaluations"] == 4
        found = result.session.trainable.tensors()
        torch.testing.assert_close(dict(found), expected, rtol=0, atol=0)
        # Trained weights that the model computes with are theirs too.
        row = result.session.evaluate()
        at = next(r for r in result.evaluations if r["step"] == step)
        assert row["forget_nll"]["value"] == at["forget_nll"]["value"]
    finally:
        result.session.close()
    saved = open_model(best.model.model_copy(update={"source": str(tmp_path / "out" / "model")}))
    live = result.session.opened.model.state_dict()
    for name, value in saved.model.state_dict().items():
        torch.testing.assert_close(value, live[name], rtol=1e-5, atol=1e-6)
    facts = json.loads((tmp_path / "out" / "facts.json").read_text())
    assert facts["kept"]["sentence"].startswith(f"The model of step {step} is saved: ")


@pytest.mark.parametrize("stop_at", [3, 5])
def test_a_resumed_run_keeps_the_same_best(tmp_path: Path, stop_at: int) -> None:
    keep = {"which": "best", "forget_loss_at_least": 1e-3}
    config = tiny_config(tmp_path, **EVERY_2, keep=keep, **ASCENT)
    straight: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    with Session(config) as whole:
        drive(whole, on_row=straight.append)
        kept = whole.keep()
        weights = {name: t.clone() for name, t in whole.trainable.tensors().items()}
    with Session(config) as first:
        drive(first, on_row=rows.append, should_stop=lambda: first.step == stop_at)
        tensors, data = first.state()
    with Session(config) as second:
        second.load_state(load(save(tensors)), json.loads(json.dumps(data, allow_nan=False)))
        drive(second, on_row=rows.append)
        assert second.keep() == kept
        torch.testing.assert_close(dict(second.trainable.tensors()), weights, rtol=0, atol=0)
    assert re.search("of 4 evaluations", kept["sentence"])
    assert without_clock(rows) == without_clock(straight)


def test_a_state_from_before_the_rules_loads(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    with Session(config) as session:
        session.train_step()
        tensors, data = session.state()
    del data["ended"], data["best"]
    with Session(config) as session:
        session.load_state(tensors, data)
        assert (session.step, session.ended) == (1, None)
        assert session.keep() == {"step": 1, "sentence": ""}


def test_a_floor_goes_before_less_forgotten_and_is_told(tmp_path: Path) -> None:
    """None has forgotten enough: 0.5 at utility 0.7 is kept, not 0.4 at 0.1, below the floor."""
    keep, stop = {"which": "best", "forget_at_most": 0.3}, {"utility_at_least": 0.6}
    config = tiny_config(tmp_path, evaluation=QUESTIONS, keep=keep, stop=stop)
    best: Best | None = None
    for step, found in ((10, Standing(0.5, 0.7)), (20, Standing(0.4, 0.1))):
        best = better(best, step, found, config.keep, config.stop)
    assert best is not None
    assert (best.step, best.above, best.evaluations) == (10, True, 2)
    assert "of those within the run's floor of utility." in why_kept(best, config)
    first = better(None, 10, Standing(0.2, 0.1), config.keep, config.stop)
    assert (first.enough, first.above) == (True, False)
    assert "which is beyond the run's floor. Judged" in why_kept(first, config)
    old = {name: value for name, value in best.to_dict().items() if name != "above"}
    assert Best.from_dict(old).above


def test_a_run_that_its_floor_ends_says_what_it_saves(tmp_path: Path) -> None:
    path = path_of(tiny_config(tmp_path, **EVERY_2, **ASCENT))
    limit = (path[0][2] + path[1][2]) / 2
    settings = {**EVERY_2, **ASCENT, "stop": {"retain_loss_at_most": limit}}
    with Session(tiny_config(tmp_path, **settings)) as session:
        drive(session, on_row=lambda row: None)
        kept = session.keep()
    assert kept["step"] == path[1][0]
    assert kept["sentence"].startswith("The model of the last step is saved, which is the one beyo")
    keep = {"which": "best", "forget_loss_at_least": 1e3}
    with Session(tiny_config(tmp_path, **settings, keep=keep)) as session:
        drive(session, on_row=lambda row: None)
        assert session.keep()["step"] == path[0][0]
