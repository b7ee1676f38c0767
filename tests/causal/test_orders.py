"""The order in which a set's experts go, and settings from file to result."""

import json
from pathlib import Path

import pytest

from tests.causal.cases import opened, questions
from tests.support.models import tiny_olmoe
from trace_engine.causal import Ablation, Examination, Scan
from trace_engine.causal.ablation import harm_of
from trace_engine.causal.groups import group
from trace_engine.causal.orders import ablation_order
from trace_engine.causal.perform import perform, read_questions
from trace_engine.causal.settings import parse_causal
from trace_engine.config import Cell
from trace_engine.disk import strict
from trace_engine.errors import InputError

CELLS = [Cell(0, 1), Cell(0, 5), Cell(1, 2)]


@pytest.fixture(scope="module")
def examination() -> Examination:
    return Examination(opened(), questions())


@pytest.mark.parametrize("kind", ["one_at_a_time", "greedy"])
def test_every_step_is_the_worst_that_is_left(kind: str, examination: Examination) -> None:
    groups = group(questions(), "hazard")

    def harm(cells: list[Cell]) -> float:
        answers = examination.without(cells)
        return harm_of(groups, examination.answers, answers)["specific_loss"]

    found = ablation_order(examination, groups, CELLS, kind, permutations=99)  # type: ignore[arg-type]
    out: list[Cell] = []
    left = list(CELLS)
    for step in found.steps:
        before = out if kind == "greedy" else []
        assert step.cell == max(left, key=lambda cell: harm([*before, cell]))
        out.append(step.cell)
        left.remove(step.cell)
        forget, utility = step.forget.loss.change, step.utility.loss.change
        assert forget - utility == pytest.approx(harm(out), abs=1e-12)
    assert not left


def asked(tmp_path: Path, **more: object) -> dict[str, object]:
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question": q.question, "choices": q.choices, "answer": q.answer, "category": q.category}
        for q in questions()
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return {
        "questions": str(path),
        "model": {"source": str(tiny_olmoe())},
        "permutations": 99,
    } | more


def test_settings_give_the_result_of_the_functions(tmp_path: Path) -> None:
    found = perform(parse_causal(asked(tmp_path)), tmp_path / "kept")
    assert isinstance(found, Scan)
    assert len(found.cells) == 16
    ablated = perform(
        parse_causal(
            asked(tmp_path, what="ablate", cells=[[0, 1], [1, 2]], order="greedy", draws=3)
        )
    )
    assert isinstance(ablated, Ablation)
    assert ablated.order is not None
    assert [len(ablated.order.steps), len(ablated.random)] == [2, 3]
    assert Ablation.from_dict(json.loads(json.dumps(strict(ablated.to_dict())))) == ablated


def test_questions_are_drawn_per_category(tmp_path: Path) -> None:
    found = read_questions(parse_causal(asked(tmp_path, max_questions=2)))
    assert [q.category for q in found] == ["hazard"] * 2 + ["general"] * 2 + ["near"] * 2
    assert found == read_questions(parse_causal(asked(tmp_path, max_questions=2)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"what": "ablate"}, "cells is empty"),
        ({"what": "rerouted"}, "before is empty"),
        ({"order": "greedy"}, "set what to ablate"),
        ({"mood": "drop"}, "mood"),
    ],
)
def test_settings_that_ask_nothing_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_causal(settings)


def test_a_profile_of_another_model_is_refused(tmp_path: Path) -> None:
    from trace_engine.bundled import PACK

    with pytest.raises(InputError, match="other layers or experts"):
        perform(parse_causal(asked(tmp_path, profile=str(PACK / "profile"))))
