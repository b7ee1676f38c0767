"""Per-question agreement with the real lm-evaluation-harness, on local models and local tasks.

The package and what it brings take 170 MB, so it is an extra of its own; `make lm-eval`
installs it apart from what the other tests take, and fails where it is not there. No network but
for that: models and questions are files.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.models import tiny_olmoe
from trace_engine.bundled import resolve_source
from trace_engine.evaluation.multiple_choice import Normalise, Style, score_questions
from trace_engine.sets.questions import LETTERS, read_questions

if os.environ.get("TRACE_LM_EVAL") != "required":  # as `make lm-eval` says
    pytest.importorskip("lm_eval", reason="lm_eval is not installed (170 MB): run make lm-eval")

SHOWN = {
    "continuation": ("{{question}}", "{{choices}}"),
    "letters": (
        "{{question.strip()}}\nA. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\n"
        "D. {{choices[3]}}\nAnswer:",
        list(LETTERS[:4]),
    ),
}


def harness(
    model: str, questions: Path, style: Style, description: str, folder: Path
) -> list[dict[str, Any]]:
    """The harness's own samples of a local task file, in the questions' order."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    shown, choices = SHOWN[style]
    task = {
        "task": "local_questions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(questions)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "description": description,
        "doc_to_text": shown,
        "doc_to_choice": choices,
        "doc_to_target": "answer",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (folder / "local_questions.yaml").write_text(yaml.safe_dump(task))
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": model, "dtype": "float32"},
        tasks=["local_questions"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        device="cpu",
        batch_size=8,
        bootstrap_iters=0,
        log_samples=True,
    )
    samples: list[dict[str, Any]] = found["samples"]["local_questions"]
    return sorted(samples, key=lambda sample: sample["doc_id"])


@pytest.mark.parametrize(
    ("model", "style", "description"),
    [
        ("demo:target", "continuation", ""),
        ("demo:target", "letters", "Questions (with answers) about biology.\n\n"),
        (str(tiny_olmoe()), "letters", ""),
        (str(tiny_olmoe()), "continuation", "Questions.\n\n"),
    ],
)
def test_every_question_gets_the_harnesss_choice_and_likelihoods(
    model: str,
    style: Style,
    description: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [
        row
        for line in Path(resolve_source("demo:questions/validation")).read_text().splitlines()
        if sum(map(len, (row := json.loads(line))["choices"])) < 300
    ][:30]
    rows[1]["question"] += "  "
    rows[2]["question"] += " \n"
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = resolve_source(model)
    samples = harness(path, file, style, description, tmp_path)
    assert len(samples) == 30
    questions = read_questions(file)
    opened = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(path)

    def score(normalise: Normalise) -> Any:
        return score_questions(
            opened,
            tokenizer,
            questions,
            style=style,
            description=description,
            normalise=normalise,
        )

    sums, per_character = score("sum"), score("characters")
    for number, sample in enumerate(samples):
        theirs = np.array([float(likelihood) for likelihood, _ in sample["filtered_resps"]])
        np.testing.assert_allclose(sums.loglikelihoods[number], theirs, rtol=1e-4, atol=1e-3)
        assert sums.picked[number] == int(np.argmax(theirs))
        assert float(sums.correct[number]) == sample["acc"]
        if style == "continuation":
            assert float(per_character.correct[number]) == sample["acc_norm"]
    assert sums.accuracy().value == pytest.approx(np.mean([s["acc"] for s in samples]))
