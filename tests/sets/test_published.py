"""WMDP and MMLU as they are downloaded: folders of configurations with Parquet files by split."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from datasets import Dataset, DatasetDict

from trace_engine.errors import InputError
from trace_engine.sets import load_questions, set_config


def row(question: str, **more: Any) -> dict[str, Any]:
    return {"question": question, "choices": ["w", "x", "y", "z"], "answer": 2, **more}


def parquet(path: Path, *rows: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(list(rows)).to_parquet(path)


@pytest.fixture
def mmlu(tmp_path: Path) -> Path:
    folder = tmp_path / "mmlu"
    for subject in ("anatomy", "virology"):
        for split in ("dev", "test", "validation"):
            asked = row(f"{subject} {split}?", subject=subject)
            parquet(folder / subject / f"{split}-00000-of-00001.parquet", asked)
    parquet(folder / "all" / "test-00000-of-00001.parquet", row("anatomy test?", subject="anatomy"))
    return folder


@pytest.fixture
def wmdp(tmp_path: Path) -> Path:
    folder = tmp_path / "wmdp"
    for name in ("wmdp-bio", "wmdp-cyber"):
        for shard in range(2):
            parquet(folder / name / f"test-0000{shard}-of-00002.parquet", row(f"{name} {shard}?"))
    return folder


def test_one_split_of_every_subject_and_no_repetition(mmlu: Path) -> None:
    found = load_questions(str(mmlu))
    assert [(q.question, q.category) for q in found] == [
        ("anatomy test?", "anatomy"),
        ("virology test?", "virology"),
    ]
    assert found[0].answer == 2
    assert [q.question for q in load_questions(str(mmlu), "dev")] == [
        "anatomy dev?",
        "virology dev?",
    ]
    assert [q.question for q in load_questions(str(mmlu / "all"))] == ["anatomy test?"]


def test_configurations_name_the_category_where_rows_do_not(wmdp: Path) -> None:
    found = load_questions(str(wmdp))
    assert [(q.question, q.category) for q in found] == [
        ("wmdp-bio 0?", "wmdp-bio"),
        ("wmdp-bio 1?", "wmdp-bio"),
        ("wmdp-cyber 0?", "wmdp-cyber"),
        ("wmdp-cyber 1?", "wmdp-cyber"),
    ]
    assert {q.category for q in load_questions(str(wmdp / "wmdp-bio"))} == {"wmdp-bio"}


def test_both_side_by_side_are_one_set(tmp_path: Path, mmlu: Path, wmdp: Path) -> None:
    asked = load_questions(str(tmp_path))
    assert [q.category for q in asked] == [
        *("anatomy", "virology"),
        *(["wmdp/wmdp-bio"] * 2 + ["wmdp/wmdp-cyber"] * 2),
    ]


def test_files_folders_and_saved_sets(tmp_path: Path) -> None:
    asked = [row("one?"), row("two?", category="mine")]
    (tmp_path / "q.json").write_text(json.dumps(asked))
    parquet(tmp_path / "q.parquet", row("one?"))
    lines = tmp_path / "lines"
    lines.mkdir()
    (lines / "any.jsonl").write_text("\n".join(json.dumps(r) for r in asked))
    saved = DatasetDict({"test": Dataset.from_list([row("one?"), row("two?")])})
    saved.save_to_disk(tmp_path / "saved")
    assert [q.category for q in load_questions(str(tmp_path / "q.json"))] == ["all", "mine"]
    assert [q.question for q in load_questions(str(tmp_path / "q.parquet"))] == ["one?"]
    assert [q.category for q in load_questions(str(lines))] == ["lines", "mine"]
    assert [q.question for q in load_questions(str(tmp_path / "saved"))] == ["one?", "two?"]
    assert load_questions("demo:questions/test")[0].category == "hazard"


def test_a_choice_that_a_published_set_has_twice_is_kept(tmp_path: Path) -> None:
    twice = row("?", choices=["a", "b", "a", "c"])
    parquet(tmp_path / "s" / "test.parquet", twice)
    assert load_questions(str(tmp_path / "s"))[0].choices == ("a", "b", "a", "c")
    (tmp_path / "mine.jsonl").write_text(json.dumps(twice))
    with pytest.raises(InputError, match="same text twice"):
        load_questions(str(tmp_path / "mine.jsonl"))


def test_what_is_not_there_is_named(mmlu: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mmlu has no split 'train'; it has dev, test, validation"):
        load_questions(str(mmlu), "train")
    with pytest.raises(InputError, match="no such questions file"):
        load_questions(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no file of questions"):
        load_questions(str(tmp_path / "empty"))
    parquet(tmp_path / "bad" / "test.parquet", row("fine?"), row("?", answer=7))
    with pytest.raises(InputError, match=r'test\.parquet, row 2: expected "answer" to be 0 to 3'):
        load_questions(str(tmp_path / "bad"))
    with pytest.raises(InputError, match="cais/wmdp"):
        load_questions("hub:cais/wmdp:wmdp-bio")


def test_a_hub_set_is_named_in_one_word() -> None:
    found = set_config("hub:cais/wmdp:wmdp-bio:test")
    assert (found.source, found.hub_config, found.hub_split) == (
        "hub:cais/wmdp",
        "wmdp-bio",
        "test",
    )
    plain = set_config("hub:muse-bench/MUSE-Books:raw:forget")
    assert (plain.hub_config, plain.hub_split) == ("raw", "forget")
    assert set_config("hub:o/n").hub_config is None
    assert set_config("hub:o/n", "test").hub_split == "test"
    assert set_config("hub:o/n::dev", "test").hub_split == "dev"
    assert set_config("C:/mine.jsonl").source == "C:/mine.jsonl"
    with pytest.raises(InputError, match="expected hub:owner/name:config:split"):
        set_config("hub:a/b:c:d:e")
