"""Questions are read whole or refused with the file and the physical line."""

import json
from pathlib import Path

import pytest

from trace_engine.errors import InputError
from trace_engine.sets.questions import Question, read_questions

GOOD = {"question": "Which is a fruit?", "choices": ["pear", "iron", "salt", "glass"], "answer": 0}


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_reads_numbers_letters_categories_and_skips_blank_lines(tmp_path: Path) -> None:
    lettered = {**GOOD, "answer": "c", "category": "hazard"}
    subject = {**GOOD, "answer": 3, "subject": "botany"}
    path = write(tmp_path, json.dumps(GOOD), "", json.dumps(lettered), json.dumps(subject))
    questions = read_questions(path)
    assert questions[0] == Question(GOOD["question"], tuple(GOOD["choices"]), 0, "all")
    assert [(q.answer, q.category) for q in questions[1:]] == [(2, "hazard"), (3, "botany")]


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ("{", "not JSON"),
        ("[1]", "[1]"),
        (json.dumps({**GOOD, "question": 42}), "found 42"),
        (json.dumps({**GOOD, "question": "  "}), '"question"'),
        (json.dumps({**GOOD, "choices": ["one"]}), "2 to 10"),
        (json.dumps({**GOOD, "choices": ["a", "a"]}), "twice"),
        (json.dumps({**GOOD, "answer": 4}), "0 to 3 or A to D, found 4"),
        (json.dumps({**GOOD, "answer": True}), "found true"),
        (json.dumps({**GOOD, "answer": "E"}), 'found "E"'),
        (json.dumps({k: v for k, v in GOOD.items() if k != "answer"}), "found nothing"),
        (json.dumps({**GOOD, "category": 3}), '"category"'),
    ],
)
def test_malformed_row_names_file_and_physical_line(tmp_path: Path, row: str, found: str) -> None:
    path = write(tmp_path, json.dumps(GOOD), "", row)
    with pytest.raises(InputError) as caught:
        read_questions(path)
    message = str(caught.value)
    assert message.startswith("test.jsonl, line 3: expected")
    assert found in message
    assert message.endswith("Nothing was saved.")


def test_missing_binary_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such questions file"):
        read_questions(tmp_path / "absent.jsonl")
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="binary"):
        read_questions(binary)
    with pytest.raises(InputError, match="found none"):
        read_questions(write(tmp_path, ""))
