"""Other words for the same question: templates, a file of paraphrases, prefixes."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from trace_engine.attacks.settings import AskingConfig, RelearningConfig
from trace_engine.attacks.wordings import PREFIXES, paraphrases, prefixes
from trace_engine.errors import InputError
from trace_engine.sets import Question

ASKED = {
    0: Question("tar:", ("a", "b"), 1, "hazard"),
    4: Question("What is {salt}?", ("c", "d"), 0, "hazard"),
}


def test_a_template_takes_the_question_without_its_mark() -> None:
    config = AskingConfig(templates=("define {question}:",))
    (way,) = paraphrases(ASKED, config, None)
    assert way.questions[0] == Question("define tar:", ("a", "b"), 1, "hazard")
    assert way.questions[4].question == "define What is {salt}:"


def test_bundled_templates_are_for_bundled_questions_only() -> None:
    assert len(paraphrases(ASKED, AskingConfig(), "demo:questions/test")) == 4
    assert paraphrases(ASKED, AskingConfig(), "mine.jsonl") == []


def test_paraphrases_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(
        '{"of": 1, "question": "black stuff:"}\n{"of": 1, "question": "pitch:"}\n'
        '{"of": 5, "question": "the white grain"}\n{"of": 3, "question": "not asked"}\n'
    )
    ways = paraphrases(ASKED, AskingConfig(paraphrases=str(path)), None)
    assert [way.name for way in ways] == ["paraphrase 1", "paraphrase 2"]
    assert {n: q.question for n, q in ways[0].questions.items()} == {
        0: "black stuff:",
        4: "the white grain",
    }
    assert list(ways[1].questions) == [0]
    assert ways[1].questions[0].choices == ("a", "b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"of": 0, "question": "x"}\n', "line 1"),
        ('{"of": 1, "question": " "}\n', "non-empty"),
        ('{"of": true, "question": "x"}\n', "number from 1"),
        ('{"of": 9, "question": "x"}\n', "paraphrases none"),
    ],
)
def test_a_bad_file_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=said):
        paraphrases(ASKED, AskingConfig(paraphrases=str(path)), None)
    with pytest.raises(InputError, match="no such file"):
        paraphrases(ASKED, AskingConfig(paraphrases=str(tmp_path / "none.jsonl")), None)


def test_prefixes_stand_before_every_question() -> None:
    ways = prefixes(ASKED, AskingConfig())
    assert [way.name for way in ways] == [f"prefix {name}" for name in PREFIXES]
    assert all(way.questions[0].question.endswith(". tar:") for way in ways)
    own = prefixes(ASKED, AskingConfig(prefixes=("Please. ",)))
    assert own[0].questions[4].question == "Please. What is {salt}?"


def test_settings_that_ask_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="has no"):
        AskingConfig(templates=("what?",))
    with pytest.raises(ValidationError, match="rise"):
        RelearningConfig(ask_at=(5, 2), steps=5)
    with pytest.raises(ValidationError, match="asks after 9"):
        RelearningConfig(ask_at=(9,), steps=5)
