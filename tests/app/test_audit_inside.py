"""What an audit's page shows of its experts and of "erased, or re-routed"."""

from pathlib import Path

import pytest

from tests.app.test_audit import home, page, stored, texts
from tests.audit.cases import small
from trace_engine.audit.retold import TITLES
from trace_engine.audit.run import run_audit

__all__ = ["home"]


@pytest.mark.usefixtures("home")
def test_experts_and_rerouting_stand_on_the_page_with_their_intervals(
    home: Path, tmp_path: Path
) -> None:
    parts = ["questions", "routing", "causal", "rerouted"]
    folder = stored(home, small(tmp_path / "sets", parts=parts), "done", "Undecided")
    found = run_audit(small(tmp_path / "sets", parts=parts), folder / "report", base=home)
    app = page(audit=folder.name)
    assert not app.exception
    said = texts(app)
    assert "3 of these 16 were taken out" in said
    for title in TITLES.values():
        assert f"*{title}*" in said
    for sentence in found.report["parts"]["rerouted"]["summary"]["sentences"].values():
        assert sentence in said
    tables = [table.value for table in app.dataframe]
    before, model = (table for table in tables if "gap" in table)
    assert list(before["forget loss"][3:]) == ["not taken out"] * 13
    assert all(", p " in cell and "[" in cell for cell in before["forget loss"][:3])
    assert "forget loss" not in model
    overlap = next(table for table in tables if "layer" in table and "other questions" in table)
    assert all("[" in cell for cell in overlap["forget questions"])
