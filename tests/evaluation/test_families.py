"""Materials to families to rows: what is asked, what is refused, and the reference's part."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.support.models import tiny_olmoe
from trace_engine.cli import main
from trace_engine.config import ModelConfig
from trace_engine.errors import InputError
from trace_engine.evaluation import (
    ChoiceScores,
    Materials,
    evaluate,
    families_of,
    score_questions,
)
from trace_engine.models import open_model
from trace_engine.sets import load_questions

MODEL = ModelConfig(source=str(tiny_olmoe()), device="cpu")


def text_file(folder: Path, name: str, texts: list[str]) -> str:
    path = folder / name
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


@pytest.fixture
def forget(tmp_path: Path) -> str:
    return text_file(tmp_path, "forget.jsonl", ["one text", "another text", "the third"])


@pytest.fixture
def holdout(tmp_path: Path) -> str:
    return text_file(tmp_path, "holdout.jsonl", ["never seen", "nor this one"])


def test_all_that_the_materials_allow_is_measured(forget: str, holdout: str) -> None:
    found = evaluate(MODEL, families_of(Materials(sets=[forget], forget=forget, holdout=holdout)))
    assert [row.measure for row in found.rows] == [
        "loss, nats per token",
        "extraction strength",
        "exact memorisation",
        *(f"membership AUC, {a}" for a in ("loss", "zlib", "Min-K", "Min-K++", "reference")),
    ]
    assert all(row.implementation for row in found.rows)
    assert found.to_dict()["reference"] is None


def test_only_what_is_asked_is_measured(forget: str, holdout: str) -> None:
    materials = Materials(sets=[forget], forget=forget, holdout=holdout)
    assert len(families_of(materials, ["memorisation"])) == 1


@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (None, "Name what to evaluate on"),
        (["membership"], "membership needs the forget set and documents that were never"),
        (["accuracy"], "accuracy needs a file of multiple-choice questions"),
        (["bleu"], "no metric 'bleu'; there are accuracy, loss"),
    ],
)
def test_what_is_missing_is_named(metrics: list[str] | None, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        families_of(Materials(), metrics)


def test_a_reference_that_nothing_compares_with_is_refused(forget: str) -> None:
    families = families_of(Materials(forget=forget))
    with pytest.raises(InputError, match="no metric compares with one"):
        evaluate(MODEL, families, MODEL)


def test_the_command_prints_the_same_rows_as_python(
    forget: str, holdout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", MODEL.source, "--device", "cpu", "--forget", forget]
    words += ["--holdout", holdout]
    assert main([*words, "--reference", MODEL.source, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    families = families_of(Materials(forget=forget, holdout=holdout))
    assert printed == json.loads(json.dumps(evaluate(MODEL, families, MODEL).to_dict()))
    assert printed["results"][-1]["value"] == 0.5  # the model against itself
    assert main([*words, "--metrics", "membership"]) == 0
    table = capsys.readouterr().out
    assert "no reference" in table
    assert "bootstrap over items" in table
    assert "extraction" not in table
    assert main(["evaluate", MODEL.source, "--metrics", "membership", "--forget", forget]) == 2
    assert "never trained on (--forget, --holdout)" in capsys.readouterr().err


def test_questions_of_a_published_folder_with_the_harnesss_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Split, style and description reach the scorer: each changes what is asked."""
    folder = tmp_path / "wmdp-bio"
    folder.mkdir()
    for split, count in (("test", 12), ("dev", 3)):
        rows = [
            {"question": f"{split} {n}?", "choices": list("wxyz"), "answer": n % 4}
            for n in range(count)
        ]
        (folder / f"{split}.json").write_text(json.dumps(rows))
    words = ["evaluate", MODEL.source, "--device", "cpu", "--questions", str(folder), "--json"]
    told = "About biology.\n\n"
    assert main([*words, "--style", "letters", "--description", r"About biology.\n\n"]) == 0
    [row] = json.loads(capsys.readouterr().out)["results"]
    opened = open_model(MODEL)

    def scores(description: str) -> ChoiceScores:
        return score_questions(
            opened.model,
            opened.tokenizer,
            load_questions(str(folder)),
            style="letters",
            description=description,
        )

    assert row["measure"] == "accuracy: wmdp-bio"
    assert row["value"] == scores(told).accuracy().value
    assert row["n"] == 12
    assert not np.allclose(scores(told).loglikelihoods, scores("").loglikelihoods)
    assert main([*words, "--split", "dev"]) == 0
    assert json.loads(capsys.readouterr().out)["results"][0]["n"] == 3
