"""Methods on answers (CE-U, DPO, IdkDPO): hand-computed losses, runs, and refusals before any
directory.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import trace_engine
from tests.unlearning.cases import tiny_config, write_sets
from trace_engine import runs
from trace_engine.cli import main
from trace_engine.config import SetConfig, UnlearnConfig, to_yaml
from trace_engine.errors import InputError
from trace_engine.evaluation.nll import document_nll
from trace_engine.unlearning import Session, losses

UNIFORM: dict[str, Any] = {"weights": {"rule": "uniform"}, "alpha": 0}


def test_dpo_worked_out_by_hand() -> None:
    """Margin (5 - 4) + (4 - 2) = 3: the answer lost 1 nat, the preferred one won 2."""

    def loss(nll: float, preferred: float, beta: float) -> float:
        tensors = [torch.tensor([v], dtype=torch.float64) for v in (nll, 4.0, preferred, 4.0)]
        return float(losses.dpo_forget(*tensors, beta))

    assert loss(5, 2, 1.0) == pytest.approx(2 * math.log1p(math.exp(-3)), abs=1e-12)
    assert loss(5, 2, 0.1) == pytest.approx(20 * math.log1p(math.exp(-0.3)), abs=1e-12)
    assert loss(4, 4, 0.1) == pytest.approx(20 * math.log(2), abs=1e-12)
    # Without a change of the preferred answer it is NPO.
    npo = losses.npo_forget(torch.tensor([6.5]).double(), torch.tensor([4.0]).double(), 0.1)
    assert loss(6.5, 4, 0.1) == pytest.approx(float(npo), abs=1e-12)
    assert math.isfinite(loss(-1e6, 1e6, 0.1))


def test_dpo_takes_sums_and_each_documents_own_numbers() -> None:
    nll_B, reference_B = torch.tensor([5.0, 2.0]), torch.tensor([4.0, 3.0])
    preferred_B, start_B = torch.tensor([1.0, 9.0]), torch.tensor([3.0, 8.0])
    by_hand = 2 * (math.log1p(math.exp(-3)) + math.log1p(math.exp(2))) / 2
    found = losses.dpo_forget(nll_B, reference_B, preferred_B, start_B, 1.0)
    assert float(found) == pytest.approx(by_hand, rel=1e-6)


def test_dpo_has_no_gradient_into_the_start_model() -> None:
    tensors = [torch.tensor([v], dtype=torch.float64, requires_grad=True) for v in (5, 4, 2, 3)]
    losses.dpo_forget(*tensors, 0.5).backward()
    assert [tensor.grad is None for tensor in tensors] == [False, True, False, True]
    nll, _, preferred, _ = tensors
    assert nll.grad is not None
    assert preferred.grad is not None
    # A worse answer and a likelier preferred one lower the loss alike.
    assert float(nll.grad) == -float(preferred.grad) < 0


def test_ceu_worked_out_by_hand() -> None:
    """Softmax (1/2, 1/4, 1/4), label 0: the target is (0, 1/2, 1/2), the loss -log 1/4."""
    logits_BSV = torch.log(torch.tensor([[[9, 1, 1], [2, 1, 1], [7, 5, 3.0]]], dtype=torch.float64))
    labels_BS = torch.tensor([[-100, 2, 0]])
    # The first label (2, predicted from position 0) is skipped.
    assert float(losses.ceu_forget(logits_BSV, labels_BS)) == pytest.approx(2 * math.log(2))
    assert losses.later_labels(labels_BS).tolist() == [[False, True]]


def test_ceus_gradient_stays_where_gradient_ascents_vanishes_and_explodes_nowhere() -> None:
    for logit, wanted in ((30.0, 1.0), (0.0, 1 / 3), (-30.0, 0.0)):
        logits_BSV = torch.tensor([[[0, 0, 0], [logit, 0, 0], [0, 0, 0]]], dtype=torch.float64)
        logits_BSV.requires_grad_()
        losses.ceu_forget(logits_BSV, torch.tensor([[-100, 1, 0]])).backward()
        assert logits_BSV.grad is not None
        assert float(logits_BSV.grad[0, 1, 0]) == pytest.approx(wanted, abs=1e-9)
        assert bool(logits_BSV.grad.isfinite().all())


def test_later_labels_skip_each_documents_first_whatever_the_padding() -> None:
    labels_BS = torch.tensor(
        [[-100, -100, 3, 4, 5], [-100, 1, 2, -100, -100], [-100, 7, -100, 8, 9]]
    )
    assert losses.later_labels(labels_BS).tolist() == [
        [False, False, True, True],
        [False, True, False, False],
        [False, False, True, True],
    ]


# Runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dpo", "idkdpo"])
def test_a_run_makes_the_preferred_answers_likelier_than_the_true_ones(
    tmp_path: Path, method: str
) -> None:
    config = tiny_config(tmp_path, method=method, max_steps=12, learning_rate=5e-3, **UNIFORM)
    with Session(config) as session:
        side = session.setup.forget
        assert side.preferred is not None
        assert len(side.preferred) == len(side.training)
        before = [document_nll(session.opened, e)[0].sum() for e in (side.training, side.preferred)]
        first = session.train_step()
        while not session.finished:
            last = session.train_step()
        after = [document_nll(session.opened, e)[0].sum() for e in (side.training, side.preferred)]
    assert first["forget_loss"] == pytest.approx(20 * math.log(2), rel=1e-6)
    assert last["forget_loss"] < first["forget_loss"]
    assert after[0] - before[0] > after[1] - before[1]
    assert after[1] < before[1]


def test_prompts_are_context_of_both_answers(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path, method="dpo", **UNIFORM)) as session:
        side, tokenizer = session.setup.forget, session.opened.tokenizer
        assert side.preferred is not None
        for own, instead in zip(side.training, side.preferred, strict=True):
            assert own.ids[: own.label_start] == instead.ids[: instead.label_start]
            answer = tokenizer.decode(instead.ids[instead.label_start :], skip_special_tokens=True)
            assert answer.startswith(" ")
            assert answer.endswith("!")
        facts = session.facts()["method"]
    assert (facts["preferred"], facts["parameters"]) == ("set", {"beta": 0.1})


@pytest.mark.parametrize("method", ["ceu", "dpo", "idkdpo"])
def test_plain_text_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    forget, _ = write_sets(tmp_path)
    config = tiny_config(tmp_path, method=method)
    config = config.model_copy(update={"forget": SetConfig(source=str(forget))})
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    with pytest.raises(InputError, match="works on answers to prompts"):
        runs.launch(config)
    with pytest.raises(InputError, match="works on answers to prompts"):
        trace_engine.unlearn(config, out=tmp_path / "out")
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    assert main(["unlearn", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "works on answers to prompts" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "home" / "runs").exists()


def test_ceu_leaves_out_answers_of_one_token_and_refuses_a_set_of_them(tmp_path: Path) -> None:
    config: UnlearnConfig = tiny_config(tmp_path, method="ceu", max_length=8)
    rows = ['{"question": "1234567", "answer": "8"}', '{"question": "12", "answer": "345"}']
    path = tmp_path / "short.jsonl"
    # BOS, 7 of the question, and no room for the answer; BOS, 2, a space, 3, EOS.
    path.write_text("\n".join([*rows, '{"question": "123456", "answer": "7"}']))
    questions = tmp_path / "q.jsonl"
    questions.write_text(
        '{"question": "a", "choices": ["b", "c"], "answer": 0, "category": "hazard"}\n'
    )
    asked = config.evaluation.model_copy(update={"questions": str(questions)})
    config = config.model_copy(update={"forget": SetConfig(source=str(path)), "evaluation": asked})
    with Session(config) as session:
        assert len(session.setup.forget.training) == 1
        assert session.setup.forget.without_labels == 2
    path.write_text(rows[0])
    with pytest.raises(InputError, match="has 2 tokens to predict"):
        Session(config)
