"""A `demo:` name that is not in the pack is refused in a short sentence, however odd it is."""

from pathlib import Path

import pytest

from trace_engine.bundled import PACK, resolve_source
from trace_engine.config import ModelConfig, SetConfig
from trace_engine.errors import InputError
from trace_engine.models import inspect_model
from trace_engine.sets import load_set

ODD = ["nothing", "x" * 300, "questions/" + "x" * 5000, "../models/target", "a\0b", "\ud800", ""]


@pytest.mark.parametrize("name", ODD, ids=lambda name: ascii(name[:20]))
def test_an_unknown_name_is_one_short_sentence(name: str) -> None:
    for refused in (
        lambda source: resolve_source(source),
        lambda source: load_set(SetConfig(source=source)),
        lambda source: inspect_model(ModelConfig(source=source)),
    ):
        with pytest.raises(InputError, match=r"^The bundled pack has no 'demo:") as caught:
            refused(f"demo:{name}")
        assert len(str(caught.value)) < 500


def test_known_names_and_other_sources() -> None:
    assert resolve_source("demo:target") == str(PACK / "models" / "target")
    assert resolve_source("demo:questions/test") == str(PACK / "questions" / "test.jsonl")
    assert resolve_source("x" * 300) == "x" * 300


def test_a_name_cannot_be_a_path_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text('{"text": "not in the pack"}', encoding="utf-8")
    for name in (tmp_path / "secret", f"questions/../../../..{tmp_path}/secret"):
        with pytest.raises(InputError, match=r"^The bundled pack has no 'demo:"):
            resolve_source(f"demo:{name}")
