"""ROUGE-L by hand, MUSE's four figures from made-up scores, and its parts as published."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from tests.support.models import tiny_olmoe
from trace_engine.config import ModelConfig, SetConfig
from trace_engine.errors import InputError
from trace_engine.evaluation.generation import continue_texts
from trace_engine.evaluation.muse import Muse, MuseScores, answers, privleak, up_to_next_question
from trace_engine.evaluation.rouge import package, rouge_l
from trace_engine.models import OpenModel, open_model
from trace_engine.sets.muse import Pair, read_muse
from trace_engine.sets.tofu import read_tofu


@pytest.fixture(scope="module")
def opened() -> OpenModel:
    return open_model(ModelConfig(source=str(tiny_olmoe()), device="cpu"))


def test_rouge_l_by_hand() -> None:
    # "the cat sat" in order out of four words there, five here.
    found = rouge_l("The cat sat down", "the big cat, then sat")
    assert found.recall == pytest.approx(3 / 4)
    assert found.f1 == pytest.approx(2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5))
    assert rouge_l("cats", "cat").f1 == 0.0
    assert rouge_l("cats", "cat", stemmer=True).f1 == 1.0
    assert rouge_l("words", "").f1 == 0.0
    # What an implementation's name says is what is installed here, whichever that is.
    assert package() == f"rouge-score {version('rouge_score')}"
    assert package().removeprefix("rouge-score ")[0].isdigit()


def test_an_answer_stops_before_the_next_question() -> None:
    assert up_to_next_question(" Paris\n\nQuestion: and then?") == " Paris"
    assert up_to_next_question("a\nQuestion b") == "a"
    assert up_to_next_question("Paris Question: x") == "Paris "


def test_questions_are_asked_in_muses_words(
    opened: OpenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def echo(opened: OpenModel, prompts: list[str], new: int, **_: object) -> list[str]:
        asked.append(list(prompts))
        assert new == 32
        return ["blue\n\nQuestion: more", "a red one"]

    monkeypatch.setattr("trace_engine.evaluation.muse.continue_texts", echo)
    pairs = [Pair("Which {colour}?", "blue"), Pair("And?", "a green one")]
    prompt = "Question: {question}\nAnswer: "
    assert answers(opened, pairs, [Pair("Who?", "Me")], prompt) == [
        1.0,
        pytest.approx(2 / 3),
    ]
    before = "Question: Who?\nAnswer: Me\n\n"
    assert asked == [
        [
            f"{before}Question: Which {{colour}}?\nAnswer: ",
            f"{before}Question: And?\nAnswer: ",
        ]
    ]


def scores(forget: list[float], holdout: list[float]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(forget), np.array(holdout)


def test_privleak_by_hand() -> None:
    # The reference: of four pairs, holdout looks more trained on in two. The model: in none.
    reference = scores([2.0, 4.0], [1.0, 5.0])
    own = scores([1.0, 1.5], [3.0, 4.0])
    row = privleak(own, reference, "set")
    assert row.estimate is not None
    assert (row.estimate.value, row.estimate.n) == (-100.0, 4)
    # The other way round: every holdout document looks more trained on.
    over = privleak(scores([9.0, 8.0], [3.0, 4.0]), reference, "set")
    assert over.estimate is not None
    assert over.estimate.value == 100.0


def test_privleak_of_the_reference_itself_is_zero_in_every_resample() -> None:
    generator = np.random.default_rng(0)
    own = (generator.normal(0, 1, 40), generator.normal(0, 1, 30))
    row = privleak(own, own, "set")
    assert row.estimate is not None
    assert (row.estimate.value, row.estimate.low, row.estimate.high) == (0.0, 0.0, 0.0)


def test_privleak_where_the_reference_knows_the_forget_set_is_no_number() -> None:
    known = scores([1.0, 1.0], [3.0, 4.0])
    row = privleak(known, known, "set")
    assert row.estimate is None
    assert "AUC is 0.000" in row.note


def test_documents_without_a_token_in_either_model_are_left_out() -> None:
    own = scores([1.0, np.nan, 3.0], [2.0, 2.5])
    reference = scores([1.0, 1.0, 3.0], [2.0, np.nan])
    row = privleak(own, reference, "set")
    assert row.estimate is not None
    assert row.estimate.n == 3
    assert row.estimate.value == 0.0


def muse_folder(folder: Path) -> Path:
    """As the authors' load_data.py writes it, with one part as the hub stores it and one saved."""
    for part, rows in {
        "verbmem/forget.json": [{"prompt": "once upon", "gt": "a time"}],
        "knowmem/forget_qa.json": [{"question": "Who?", "answer": "Me"}],
        "knowmem/forget_qa_icl.json": [{"question": "Why?", "answer": "So"}],
        "privleak/forget.json": ["first text", "second text"],
    }.items():
        (folder / part).parent.mkdir(exist_ok=True, parents=True)
        (folder / part).write_text(json.dumps(rows))
    pd.DataFrame({"question": ["What?", "When?"], "answer": ["That", "Then"]}).to_parquet(
        folder / "knowmem" / "retain_qa-00000-of-00001.parquet"
    )
    pd.DataFrame({"text": ["third text", "fourth text"]}).to_parquet(
        folder / "privleak" / "holdout-00000-of-00001.parquet"
    )
    return folder


def test_parts_are_read_as_published(tmp_path: Path) -> None:
    found = read_muse(str(muse_folder(tmp_path)))
    assert found.verbatim == (Pair("once upon", "a time"),)
    assert found.forget_questions == (Pair("Who?", "Me"),)
    assert found.forget_examples == (Pair("Why?", "So"),)
    assert found.retain_questions == (Pair("What?", "That"), Pair("When?", "Then"))
    assert found.retain_examples == ()
    assert [document.text for document in found.forget] == ["first text", "second text"]
    assert [document.text for document in found.holdout] == ["third text", "fourth text"]
    assert found.prompt == "Question: {question}\nAnswer: "


def test_a_part_saved_by_datasets_is_read(tmp_path: Path) -> None:
    rows = Dataset.from_dict({"prompt": ["p"], "gt": ["g"]})
    DatasetDict({"forget": rows}).save_to_disk(tmp_path / "verbmem")
    assert read_muse(str(tmp_path)).verbatim == (Pair("p", "g"),)


def test_the_hub_is_asked_for_each_part_by_configuration_and_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str | None, str]] = []

    def hub(name: str, config: SetConfig) -> list[dict[str, str]]:
        asked.append((name, config.hub_config, config.hub_split))
        both = {"question": "q", "answer": "a", "prompt": "p", "gt": "g", "text": "t"}
        return [both]

    monkeypatch.setattr("trace_engine.sets.parts.hub_dataset", hub)
    found = read_muse("hub:muse-bench/MUSE-Books")
    assert {name for name, _, _ in asked} == {"muse-bench/MUSE-Books"}
    assert [(config, split) for _, config, split in asked] == [
        ("verbmem", "forget"),
        ("knowmem", "forget_qa"),
        ("knowmem", "forget_qa_icl"),
        ("knowmem", "retain_qa"),
        ("knowmem", "retain_qa_icl"),
        ("privleak", "forget"),
        ("privleak", "holdout"),
    ]
    assert found.verbatim == (Pair("p", "g"),)
    assert found.holdout[0].text == "t"
    asked.clear()
    read_tofu_rows = {"question": "q", "answer": "a", "perturbed_answer": ["b"]}
    monkeypatch.setattr(
        "trace_engine.sets.parts.hub_dataset",
        lambda name, config: (
            asked.append((name, config.hub_config, config.hub_split)) or [read_tofu_rows]
        ),
    )
    assert read_tofu("hub:locuslab/TOFU", "forget05").forget[0].perturbed == ("b",)
    assert asked[0] == ("locuslab/TOFU", "forget05_perturbed", "train")


def test_bundled_parts_are_those_of_the_book() -> None:
    found = read_muse("demo:book")
    assert len(found.verbatim) == len(found.forget_questions) == len(found.retain_questions) == 200
    assert len(found.holdout) == 90
    assert found.prompt == "{question}"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("verbmem/forget.json", '[{"prompt": "p"}]', 'line 1: expected non-empty text in "gt"'),
        ("knowmem/forget_qa.json", '[{"question": 3, "answer": "a"}]', 'text in "question"'),
        ("verbmem/forget.json", "[1", "verbmem/forget.json, line 1"),
        ("other.json", "[]", "has no part of MUSE: expected verbmem/forget"),
    ],
)
def test_bad_parts_are_named(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_muse(str(tmp_path))


def test_no_folder_and_no_network_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder"):
        read_muse(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="MUSE-Books"):
        read_muse("hub:muse-bench/MUSE-Books")


def test_a_part_that_is_missing_and_a_reference_that_is_not_there_are_said(
    opened: OpenModel, tmp_path: Path
) -> None:
    folder = muse_folder(tmp_path)
    (folder / "verbmem" / "forget.json").unlink()
    family = Muse(read_muse(str(folder)), 64)
    verbmem, forget, retain, auc, leak = family.rows(family.collect(opened))
    assert verbmem.estimate is None
    assert verbmem.note.endswith("has no verbmem/forget")
    assert leak.estimate is None
    assert leak.note.startswith("no reference")
    assert auc.estimate is not None
    assert auc.estimate.n == 4
    assert retain.estimate is not None
    assert retain.estimate.n == 2
    assert forget.estimate is not None
    assert "rouge-score" in forget.implementation


def test_a_passage_is_judged_by_its_first_128_tokens(
    opened: OpenModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = muse_folder(tmp_path)
    rows = [{"prompt": "once upon", "gt": "a " * 64 + "b " * 500}]  # a token a letter
    (folder / "verbmem" / "forget.json").write_text(json.dumps(rows))
    monkeypatch.setattr(
        "trace_engine.evaluation.muse.continue_texts",
        lambda opened, prompts, new, **_: ["a " * (new // 2)] * len(prompts),
    )
    collected: MuseScores = Muse(read_muse(str(folder)), 64).collect(opened)
    assert collected.verbatim[0] > 0.9


def test_against_itself_privleak_is_zero_and_verbmem_is_its_own_text(
    opened: OpenModel, tmp_path: Path
) -> None:
    """A model asked for what it writes anyway has it word for word."""
    folder = muse_folder(tmp_path)
    [text] = continue_texts(opened, ["tree"], 128)
    strange = "a garden of which nobody has ever written"
    rows = [{"prompt": "tree", "gt": gt} for gt in (text, strange)]
    (folder / "verbmem" / "forget.json").write_text(json.dumps(rows))
    family = Muse(read_muse(str(folder)), 64)
    collected: MuseScores = family.collect(opened)
    own, others = collected.verbatim
    assert own > 0.9
    assert others < 0.2
    leak = family.rows(collected, family.collect_reference(opened))[-1]
    assert leak.estimate is not None
    assert leak.estimate.value == 0.0
