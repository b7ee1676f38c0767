"""The blind test in small: bookkeeping of the models, and the fake's untouched experts."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bench.blind_audit import ALLOWED, blind, confusion
from bench.blind_models import exchanged, steer_routers
from tests.audit.cases import write_sets
from tests.support.models import tiny_olmoe
from trace_engine.config import ModelConfig
from trace_engine.models import open_model
from trace_engine.models.parts import router_parameters
from trace_engine.sets import Document


def test_headings_get_the_next_documents_text() -> None:
    documents = [Document("1", "a: one"), Document("2", "b: two"), Document("3", "c: three: 3")]
    assert [document.text for document in exchanged(documents)] == [
        "a: two", "b: three: 3", "c: one",
    ]  # fmt: skip


def test_the_fake_has_every_weight_but_the_routers(tmp_path: Path) -> None:
    source = str(tiny_olmoe())
    facts = [Document(str(n), f"key{n}: value {n} of it") for n in range(20)]
    steer_routers(source, facts, facts, tmp_path / "fake", seed=0, steps=3)
    before = open_model(ModelConfig(source=source))
    after = open_model(ModelConfig(source=str(tmp_path / "fake")))
    routers = {id(p) for p in router_parameters(before.sites)}
    for (name, one), other in zip(
        before.model.named_parameters(), after.model.parameters(), strict=True
    ):
        assert torch.equal(one, other) == (id(one) not in routers), name


@pytest.mark.slow
def test_models_are_audited_under_names_that_say_nothing(tmp_path: Path) -> None:
    paths = write_sets(tmp_path / "sets")
    models = {name: str(tiny_olmoe(seed=n)) for n, name in enumerate(ALLOWED)}
    small: dict[str, Any] = {
        "forget": {"source": paths["forget"]},
        "retain": {"source": paths["retain"]},
        "parts": ["questions"],
        "max_length": 64,
    }
    found = blind(
        models, str(tiny_olmoe(seed=9)), paths["questions"], tmp_path / "work", seed=0, **small
    )
    assert set(found) == set(ALLOWED)
    folders = {entry["folder"] for entry in found.values()}
    assert folders == {f"audit-{n + 1}" for n in range(len(ALLOWED))}
    # Random models answer at random, and nothing was attacked: nobody can say more.
    assert {entry["verdict"] for entry in found.values()} <= {"undecided"}
    knowable = [name for name, right in ALLOWED.items() if "undecided" not in right]
    assert confusion(found).count("WRONG") == len(knowable) == 4


@pytest.mark.parametrize(("name", "verdict"), [("fake", "returns"), ("target", "undecided")])
def test_a_wrong_finding_is_called_wrong(name: str, verdict: str) -> None:
    entry = {"verdict": verdict, "confidence": "high", "sentence": "s"}
    assert "WRONG" in confusion({name: entry})
    right = entry | {"verdict": next(iter(ALLOWED[name]))}
    assert "WRONG" not in confusion({name: right})
