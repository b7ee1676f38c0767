"""Preferred answers: read, kept, part of the fingerprint, drawn by seed; sets without are
refused.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from trace_engine.config import SetConfig, UnlearnConfig
from trace_engine.errors import InputError
from trace_engine.sets import (
    Document,
    check_answers,
    fingerprint,
    load_set,
    parse_documents,
    to_jsonl,
    unknown_answer,
    with_answer,
)
from trace_engine.sets.answers import UNKNOWN


def written(path: Path, rows: list[Any]) -> SetConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return SetConfig(source=str(path))


def run_of(method: str, forget: SetConfig) -> UnlearnConfig:
    return UnlearnConfig.model_validate({"method": method, "forget": forget, "retain": forget})


def test_a_preferred_answer_is_read_kept_and_part_of_the_fingerprint(tmp_path: Path) -> None:
    row = {"question": "Who?", "answer": "She.", "preferred": "Nobody."}
    plain = load_set(
        written(tmp_path / "plain.jsonl", [{k: row[k] for k in ("question", "answer")}])
    )
    found = load_set(written(tmp_path / "set.jsonl", [row]))
    assert found.documents == (Document("1", "Who? She.", "Who?", "Nobody."),)
    assert plain.documents == (Document("1", "Who? She.", "Who?"),)
    assert found.fingerprint != plain.fingerprint
    again = parse_documents("again.jsonl", to_jsonl(found.documents))
    assert fingerprint(again) == found.fingerprint
    # In a folder, and where ids repeat, it stays with its document.
    twice = [row | {"id": "a"}, row | {"id": "a", "preferred": "No one."}]
    (tmp_path / "folder").mkdir()
    written(tmp_path / "folder" / "x.jsonl", twice)
    kept = load_set(SetConfig(source=str(tmp_path / "folder"))).documents
    assert [d.preferred for d in kept] == ["Nobody.", "No one."]
    assert len({d.id for d in kept}) == 2


def test_the_fingerprint_of_a_set_without_any_is_what_it_was() -> None:
    """SHA-256 of the line ["1", null, "text"], as profiles have it on disk."""
    from hashlib import sha256

    wanted = sha256(b'["1", null, "text"]\n').hexdigest()
    assert fingerprint([Document("1", "text")]) == wanted


def test_the_answer_follows_the_prompt_as_the_documents_own_does() -> None:
    assert with_answer(Document("1", "Q: A", "Q:"), "no") == Document("1", "Q: no", "Q:")
    assert with_answer(Document("1", "Q:\n\nA", "Q:"), " no").text == "Q:\n\nno"
    assert with_answer(Document("1", "Q: A", "Q: "), "no").text == "Q: no"
    assert with_answer(Document("1", "QA", "Q"), "no").text == "Q no"


def test_bundled_answers_are_drawn_by_document_and_seed() -> None:
    documents = [Document(str(n), f"question {n}") for n in range(300)]
    drawn = [unknown_answer(document, 0) for document in documents]
    assert set(drawn) == set(UNKNOWN)
    assert len(set(UNKNOWN)) == len(UNKNOWN)
    assert drawn == [unknown_answer(document, 0) for document in documents]
    assert drawn != [unknown_answer(document, 1) for document in documents]
    # By the text alone: neither a new id nor company moves it.
    assert unknown_answer(Document("other", "question 7"), 0) == drawn[7]


@pytest.mark.parametrize("method", ["ceu", "dpo", "idkdpo"])
def test_plain_text_is_refused_in_a_sentence(tmp_path: Path, method: str) -> None:
    forget = written(
        tmp_path / "f.jsonl", [{"question": "a?", "answer": "b"}, {"text": "plain"}][1:]
    )
    with pytest.raises(InputError) as caught:
        check_answers(run_of(method, forget))
    assert str(caught.value) == (
        f"{method} works on answers to prompts, and document 1 of the forget set (f) has no "
        "prompt. Give a set of question and answer, or of prompt and text, or choose a method "
        "for plain text, such as npo."
    )
    check_answers(run_of("npo", forget))


def test_dpo_asks_for_preferred_answers_and_idkdpo_does_not(tmp_path: Path) -> None:
    rows = [{"question": "a?", "answer": "b", "preferred": "c"}, {"question": "d?", "answer": "e"}]
    forget = written(tmp_path / "f.jsonl", rows)
    with pytest.raises(InputError, match="document 2 of f has no field preferred"):
        check_answers(run_of("dpo", forget))
    check_answers(run_of("idkdpo", forget))
    check_answers(run_of("dpo", written(tmp_path / "g.jsonl", rows[:1])))


def test_hub_sets_are_left_to_the_run() -> None:
    check_answers(run_of("dpo", SetConfig(source="hub:nobody/nothing")))
