"""An audit's settings file: what a person writes into it, and what is said where it is refused."""

from pathlib import Path

import pytest

from trace_engine.audit.settings import read_audit
from trace_engine.config import to_yaml
from trace_engine.errors import InputError

FILE = """kind: audit
model: {source: demo:target}
forget: {source: demo:forget}
retain: {source: demo:retain}
forget_category: hazard
"""


def test_a_date_without_quotes_is_the_text_it_looks_like(tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(FILE + "form: {auditor: somebody, date: 2026-01-31}\n", encoding="utf-8")
    found = read_audit(path)
    assert found.form.date == "2026-01-31"
    path.write_text(to_yaml(found), encoding="utf-8")
    assert read_audit(path) == found


def test_a_refused_date_is_named_with_its_field(tmp_path: Path) -> None:
    path = tmp_path / "audit.yaml"
    path.write_text(FILE + "form: {date: 5}\n", encoding="utf-8")
    with pytest.raises(InputError) as refused:
        read_audit(path)
    assert str(refused.value) == "audit.yaml: form.date: must be text (found 5)."
