"""What the documents say about themselves and about commands."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_readme_lists_and_links_every_document() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    row = re.search(r"^docs/ .*\n(?: +.*\n)*", text, flags=re.MULTILINE)
    assert row is not None
    for path in sorted((ROOT / "docs").glob("*.md")):
        assert path.name in row[0]
        assert f"(docs/{path.name})" in text


def test_a_teams_commands_are_those_that_make_has_installed() -> None:
    """After `make app` nothing of it is on the PATH."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    commands = re.findall(r"\S*(?:streamlit run|(?:python -m )?pip install|python -c) ", text)
    assert len(commands) >= 4
    assert [c for c in commands if not c.lstrip("`").startswith(".venv/bin/")] == []
