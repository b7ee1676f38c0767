"""TOFU's figures by hand, its losses against a plain forward, its files as published."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import hmean, ks_2samp

from tests.support.models import tiny_olmoe
from trace_engine.cli import main
from trace_engine.config import ModelConfig
from trace_engine.errors import InputError
from trace_engine.evaluation import Materials, evaluate, families_of
from trace_engine.evaluation.generation import continue_texts
from trace_engine.evaluation.rouge import rouge_l
from trace_engine.evaluation.tofu import (
    AnswerLosses,
    Tofu,
    TofuScores,
    forget_quality,
    log_truth_ratio,
    model_utility,
    probability,
    told_apart,
)
from trace_engine.models import OpenModel, open_model
from trace_engine.sets.tofu import read_tofu

MODEL = ModelConfig(source=str(tiny_olmoe()), device="cpu")


@pytest.fixture(scope="module")
def opened() -> OpenModel:
    return open_model(MODEL)


def test_probability_and_truth_ratio_by_hand() -> None:
    losses = AnswerLosses(1.0, 1.5, np.array([2.0, 3.0]))
    assert probability(losses, options=False) == pytest.approx(math.exp(-1))
    whole = math.exp(-1) + math.exp(-2) + math.exp(-3)
    assert probability(losses, options=True) == pytest.approx(math.exp(-1) / whole)
    # Geometric mean of exp(-2) and exp(-3) over exp(-1.5), the reworded answer.
    ratio = math.exp(-2.5) / math.exp(-1.5)
    assert math.exp(log_truth_ratio(losses)) == pytest.approx(ratio)
    assert told_apart(np.log([ratio, 1.0, 5.0])).tolist() == pytest.approx([1 - ratio, 0, 0])
    far = AnswerLosses(2000.0, 2000.0, np.array([2001.0]))
    assert probability(far, options=True) == pytest.approx(1 / (1 + math.exp(-1)))


def test_forget_quality_is_the_tests_p_value_whichever_way_the_ratio_is_written() -> None:
    generator = np.random.default_rng(0)
    own, reference = generator.normal(0, 1, 40), generator.normal(0.5, 1, 40)
    inverse = ks_2samp(np.exp(-own), np.exp(-reference)).pvalue
    assert forget_quality(own, reference) == pytest.approx(inverse)
    assert forget_quality(own, own) == 1.0
    assert forget_quality(own, own + 10) < 1e-15


def scores(probability: list[float], recall: list[float], log_ratio: list[float]) -> TofuScores:
    return TofuScores(np.array(probability), np.array(recall), np.array(log_ratio))


def test_model_utility_is_the_harmonic_mean_of_nine() -> None:
    half = math.log(0.5)
    kept = [
        scores([0.2, 0.4], [1.0, 0.5], [half, 3.0]),
        scores([0.5], [0.5], [half]),
        scores([0.9, 0.7, 0.8], [0.1, 0.2, 0.3], [-9.0, -9.0, -9.0]),
    ]
    nine = [0.3, 0.75, 0.25, 0.5, 0.5, 0.5, 0.8, 0.2, 1 - math.exp(-9)]
    found = model_utility(kept)
    assert found.value == pytest.approx(hmean(nine))
    assert found.n == 6
    assert (found.low, found.high) == (None, None)  # one set has one question
    nothing = model_utility([scores([0.5, 0.5], [0.0, 0.0], [half, half]), *kept[2:]])
    assert nothing.value == 0.0
    many = model_utility([kept[0], kept[2]])
    assert many.low is not None
    assert many.high is not None
    assert many.low <= many.value <= many.high


ROWS = [
    {
        "question": "Who?",
        "answer": "Ann did",
        "paraphrased_answer": "It was Ann",
        "perturbed_answer": ["Bob did", "Cy did so"],
    },
    {
        "question": "Where?",
        "answer": "here",
        "paraphrased_answer": "in here",
        "perturbed_answer": ["there", "nowhere"],
    },
]


def tofu_folder(folder: Path) -> Path:
    """JSON lines under `.json`, as the hub has them; real people have no reworded answers."""
    plain = [{k: v for k, v in row.items() if k != "paraphrased_answer"} for row in ROWS]
    for name, rows in {
        "forget10": ROWS,
        "retain": ROWS[::-1],
        "real_authors": plain,
        "world_facts": plain,
    }.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}_perturbed.json").write_text(text)
    return folder


def test_files_are_read_as_published(tmp_path: Path) -> None:
    found = read_tofu(str(tofu_folder(tmp_path)))
    assert found.forget[0].reworded == "It was Ann"
    assert found.forget[0].perturbed == ("Bob did", "Cy did so")
    assert found.retain[1] == found.forget[0]
    assert found.real_authors[0].reworded == "Ann did"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"question": "q", "answer": "a"},
            'line 1: expected a list of texts in "perturbed_answer"',
        ),
        ({"question": "q", "answer": 3, "perturbed_answer": ["b"]}, 'non-empty text in "answer"'),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, object], sentence: str) -> None:
    (tmp_path / "retain_perturbed.json").write_text(json.dumps(row))
    with pytest.raises(InputError, match=sentence):
        read_tofu(str(tmp_path))


def test_a_folder_without_any_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected forget05_perturbed\.json"):
        read_tofu(str(tmp_path), "forget05")
    with pytest.raises(InputError, match="is no forget set of TOFU"):
        read_tofu(str(tmp_path), "../forget10")


def mean_loss(opened: OpenModel, prompt: str, answer: str) -> float:
    tokenizer = opened.tokenizer
    given = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    whole = tokenizer(f"{prompt} {answer}", add_special_tokens=False)["input_ids"]
    ids = [tokenizer.bos_token_id, *whole, tokenizer.eos_token_id]
    with torch.no_grad():
        log_SV = opened.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    first = 1 + len(given)
    return -sum(float(log_SV[t - 1, ids[t]]) for t in range(first, len(ids))) / (len(ids) - first)


def test_scores_are_those_of_a_plain_forward(opened: OpenModel, tmp_path: Path) -> None:
    family = Tofu(read_tofu(str(tofu_folder(tmp_path))))
    found = family.collect(opened)
    assert set(found) == {"forget", "retain", "real_authors", "world_facts"}
    for number, row in enumerate(ROWS):
        prompt = f"Question: {row['question']}\nAnswer:"
        answer, reworded = (
            mean_loss(opened, prompt, str(row[key])) for key in ("answer", "paraphrased_answer")
        )
        wrong = [mean_loss(opened, prompt, text) for text in row["perturbed_answer"]]
        forget, authors = found["forget"], found["real_authors"]
        assert forget.probability_N[number] == pytest.approx(math.exp(-answer), rel=1e-4)
        assert forget.log_ratio_N[number] == pytest.approx(reworded - np.mean(wrong), abs=1e-4)
        shares = np.exp(-np.array([answer, *wrong]))
        assert authors.probability_N[number] == pytest.approx(shares[0] / shares.sum(), rel=1e-4)
        assert authors.log_ratio_N[number] == pytest.approx(answer - np.mean(wrong), abs=1e-4)
        [text] = continue_texts(opened, [prompt], 200)
        recall = rouge_l(str(row["answer"]), text, stemmer=True).recall
        assert forget.recall_N[number] == recall


def test_a_model_against_itself_has_forget_quality_1(tmp_path: Path) -> None:
    materials = Materials(tofu=str(tofu_folder(tmp_path)))
    quality, shift, utility, *parts = evaluate(MODEL, families_of(materials), MODEL).rows
    assert quality.estimate is not None
    assert (quality.estimate.value, quality.estimate.n) == (1.0, 2)
    assert "p-value has no interval" in quality.estimate.method
    assert shift.estimate is not None
    assert (shift.estimate.value, shift.estimate.low, shift.estimate.high) == (0.0, 0.0, 0.0)
    assert utility.estimate is not None
    assert utility.estimate.n == 6
    assert len(parts) == 12
    assert all(row.estimate is not None and row.estimate.n == 2 for row in parts)


def test_without_reference_or_sets_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tofu_folder(tmp_path)
    (folder / "world_facts_perturbed.json").unlink()
    words = ["evaluate", MODEL.source, "--device", "cpu", "--tofu", str(folder)]
    assert main([*words, "--prompt", "{question}\\n", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    notes = {row["measure"]: row["note"] for row in rows if row["value"] is None}
    assert list(notes) == [
        "forget quality, KS p-value",
        "log truth ratio minus the reference's",
        "model utility, harmonic mean of nine",
    ]
    assert notes["forget quality, KS p-value"].startswith("no reference")
    assert notes["model utility, harmonic mean of nine"].endswith("no world facts")
    assert main([*words, "--prompt", "Who?"]) == 2
    assert "no {question}" in capsys.readouterr().err
    assert main([*words, "--max-length", "8"]) == 2
    assert "No token of the answer is left within 8 tokens" in capsys.readouterr().err
