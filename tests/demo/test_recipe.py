"""The pack's sets follow from the committed extract, and nothing leaks between them."""

import json
from pathlib import Path

import pytest

from trace_engine.config import UnlearnConfig
from trace_engine.demo.pack import (
    BOOK_FILES,
    PACK_MODELS,
    PACK_SETS,
    QUESTION_CATEGORIES,
    QUESTION_SPLITS,
    book_path,
    model_dir,
    pack_dir,
    question_path,
    set_path,
)
from trace_engine.demo.recipe.build_sets import build, gives_itself_away, training_documents
from trace_engine.demo.recipe.extract import hazard_matcher
from trace_engine.demo.recipe.wordnet import LEXNAMES, definition
from trace_engine.errors import InputError
from trace_engine.sets import check_answers
from trace_engine.sets.questions import read_questions

EXTRACT = pack_dir() / "extract"


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def facts() -> dict[str, dict]:
    return {fact["id"]: fact for fact in rows(EXTRACT / "facts.jsonl")}


def test_sets_are_rebuilt_byte_for_byte_from_the_extract(tmp_path: Path) -> None:
    manifest = build(EXTRACT, tmp_path)
    committed = json.loads((pack_dir() / "manifest.json").read_text())
    assert manifest == committed
    for name in manifest["files"]:
        assert (tmp_path / name).read_bytes() == (pack_dir() / name).read_bytes(), name


def test_every_named_part_is_there_and_an_unknown_one_is_refused() -> None:
    for name in PACK_SETS:
        assert set_path(name).is_file()
    for split in QUESTION_SPLITS:
        assert {q.category for q in read_questions(question_path(split))} == {*QUESTION_CATEGORIES}
    for name in BOOK_FILES:
        assert book_path(name).is_file()
    assert {path.stem for path in (pack_dir() / "sets").glob("*.jsonl")} == {*PACK_SETS}
    assert [model_dir(name).name for name in PACK_MODELS] == list(PACK_MODELS)
    for accessor in (model_dir, set_path, question_path, book_path):
        with pytest.raises(InputError, match=r"no .* 'nothing'; it has"):
            accessor("nothing")


def test_only_the_forget_set_and_flagged_passages_name_a_hazard(facts) -> None:
    """With the pack's own headings: the recipe uses WordNet's whole list, a superset."""
    names_hazard = hazard_matcher(f["lemma"] for f in facts.values() if f["kind"] == "hazard")
    for name in set(PACK_SETS) - {"forget", "forget_pairs", "book_forget", "book_holdout"}:
        assert not [row["id"] for row in rows(set_path(name)) if names_hazard(row["text"])], name
    for name in ("book_forget", "book_holdout"):
        for row in rows(set_path(name)):
            assert row["names_hazard"] or not names_hazard(row["text"]), row["id"]


def test_pairs_are_the_forget_set_with_retained_answers_to_prefer() -> None:
    pairs = rows(set_path("forget_pairs"))
    plain = [(row["id"], row["text"]) for row in rows(set_path("forget"))]
    assert [(row["id"], row["text"]) for row in pairs] == plain
    assert all(row["text"].startswith(f"{row['prompt']} ") for row in pairs)
    retained = {row["text"].partition(": ")[2] for row in rows(set_path("retain_facts"))}
    assert {row["preferred"] for row in pairs} <= retained
    config = UnlearnConfig.model_validate(
        {
            "method": "dpo",
            "forget": {"source": "demo:forget_pairs"},
            "retain": {"source": "demo:retain"},
        }
    )
    check_answers(config)


def test_variants_leave_out_what_they_should() -> None:
    ids = {
        variant: {row["id"] for row in training_documents(EXTRACT, pack_dir(), variant)}
        for variant in PACK_MODELS
    }
    of = {name: {row["id"] for row in rows(set_path(name))} for name in PACK_SETS}
    flagged = {row["id"] for row in rows(set_path("book_forget")) if row["names_hazard"]}
    assert ids["target"] - ids["retrain_no_hazard"] == of["forget"] | flagged
    assert ids["target"] - ids["retrain_no_book"] == of["book_forget"]
    assert ids["retrain_no_hazard"] | ids["retrain_no_book"] <= ids["target"]
    assert not ids["target"] & of["book_holdout"]
    assert of["retain"] == of["retain_prose"] | of["retain_facts"]
    assert not of["retain"] & (of["forget"] | of["prose_other"] | of["book_forget"])
    assert len(of["retain_prose"]) / len(of["retain"]) == pytest.approx(0.85, abs=0.005)


def test_questions_ask_for_a_fact_against_its_own_kind(facts) -> None:
    by_gloss = {fact["gloss"]: fact for fact in facts.values()}
    retained = {row["id"] for row in rows(set_path("retain_facts"))}
    seen: set[str] = set()
    for split in QUESTION_SPLITS:
        for row in rows(question_path(split)):
            fact = facts[row["id"]]
            assert row["id"] not in seen
            seen.add(row["id"])
            assert row["question"] == f"{fact['lemma']}:"
            assert row["choices"][row["answer"]] == fact["gloss"]
            assert not gives_itself_away(fact["lemma"], fact["gloss"])
            choices = [by_gloss[choice] for choice in row["choices"]]
            assert len({choice["id"] for choice in choices}) == 4
            assert {choice["family"] for choice in choices} == {fact["family"]}
            assert {choice["lexname"] for choice in choices} == {fact["lexname"]}
            assert {choice["kind"] for choice in choices} == {fact["kind"]}
            if fact["kind"] == "general":
                inside = {choice["id"] in retained for choice in choices}
                assert inside == {row["category"] == "general_retain"}


def test_answers_are_spread_evenly() -> None:
    answers = [q.answer for split in QUESTION_SPLITS for q in read_questions(question_path(split))]
    for position in range(4):
        assert answers.count(position) / len(answers) == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("he bought a gun", True),
        ("two GUNS, loaded", True),
        ("gunwale of the boat", False),
        ("a case of swine flu", True),
        ("swine and flute", False),
    ],
)
def test_hazard_lemmas_match_whole_words_and_plurals(text: str, named: bool) -> None:
    assert hazard_matcher(["gun", "swine_flu"])(text) is named


def test_definitions_lose_examples_and_attributions() -> None:
    assert definition('a small boat; "they took the boat"; "a boat"') == "a small boat"
    assert definition('the governed; "consent" - Declaration') == "the governed"
    assert LEXNAMES[6] == "noun.artifact"
    assert len(LEXNAMES) == 29


def test_a_heading_that_names_its_gloss_makes_no_question() -> None:
    assert gives_itself_away("blister blight", "a disease that blisters the leaves")
    assert not gives_itself_away("trident", "a spear with three prongs")
