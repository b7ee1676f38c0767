"""`trace-moe ablate` and `trace-moe rerouted` on tiny models."""

import json
from pathlib import Path

import pytest

from tests.causal.cases import questions
from tests.support.models import tiny_olmoe
from trace_engine.causal import Rerouted, Scan
from trace_engine.cli.main import main


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question": q.question, "choices": q.choices, "answer": q.answer, "category": q.category}
        for q in questions()
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return ["--questions", str(path), "--model", str(tiny_olmoe()), "--permutations", "99"]


def test_a_scan_is_printed_written_and_kept(
    asked: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scan.json"
    assert main(["ablate", *asked, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "16 experts, 18 questions" in shown
    assert "corrected p" in shown
    assert len(list((tmp_path / "home" / "ablations").rglob("*expert*.json"))) == 16
    assert main(["ablate", *asked, "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert Scan.from_dict(read) == Scan.from_dict(json.loads(out.read_text()))


def test_a_set_in_an_order(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--cell", "0:1", "--cell", "1:2", "--draws", "3", "--order", "greedy"]
    assert main(["ablate", *asked, *words, "--mode", "reroute"]) == 0
    shown = capsys.readouterr().out
    assert "re-routed to the next best" in shown
    assert "Of 3 random sets" in shown
    assert "One after the other (greedy)" in shown


def test_two_models(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--before", str(tiny_olmoe(seed=1)), "--draws", "2", "--shuffles", "9"]
    assert main(["rerouted", *asked, *words]) == 0
    shown = capsys.readouterr().out
    for title in ("Routing overlap.", "Old routers put back.", "Experts forbidden.", "Probe of"):
        assert title in shown
    assert main(["rerouted", *asked, *words, "--json"]) == 0
    read = Rerouted.from_dict(json.loads(capsys.readouterr().out))
    assert read.before["source"] == str(tiny_olmoe(seed=1))


def test_refusals_are_one_sentence(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", *asked, "--cell", "0:99"]) == 2
    assert "Layer 0 has no expert 99" in capsys.readouterr().err
    assert main(["ablate", *asked, "--order", "greedy"]) == 2
    assert "order is for a set of experts" in capsys.readouterr().err
