"""The Python door: what it returns and writes, and that it is the same run as the loop's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import trace_engine
from tests.unlearning.cases import tiny_config, without_clock
from trace_engine.config import ModelConfig, read_config
from trace_engine.errors import InputError
from trace_engine.models import open_model
from trace_engine.progress import Progress
from trace_engine.unlearning import Session, drive


def test_unlearn_returns_and_writes_the_loops_run(tmp_path: Path) -> None:
    config, out = tiny_config(tmp_path), tmp_path / "out"
    seen, progress = [], list[Progress]()
    result = trace_engine.unlearn(config, out=out, on_row=seen.append, report=progress.append)
    result.session.close()
    rows: list[trace_engine.unlearning.Row] = []
    with Session(config) as session:
        drive(session, on_row=rows.append)
    assert without_clock(result.rows) == without_clock(rows)
    assert seen == result.rows
    written = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert written == result.rows
    assert json.loads((out / "facts.json").read_text()) == result.facts
    assert read_config(out / "config.yaml") == config
    assert open_model(ModelConfig(source=str(out / "model"))).info.num_experts == (8, 8)
    assert [row["step"] for row in result.evaluations] == [0, 3, 6]
    phases = {item.phase: item for item in progress}
    assert phases["unlearning"].done == phases["unlearning"].total == 6
    assert "profiling forget set" in phases


def test_an_overlap_is_warned_of_and_noted(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, max_steps=1)
    line = Path(config.forget.source).read_text().splitlines()[0]
    with Path(config.retain.source).open("a") as file:
        file.write(json.dumps({"id": "shared", "text": json.loads(line)["text"]}) + "\n")
    with pytest.warns(UserWarning, match="1 of 24 forget documents are also in the retain set"):
        result = trace_engine.unlearn(config)
    result.session.close()
    assert len([note for note in result.notes if "also in the retain set" in note]) == 1
    # What the run found before its first step, without a run.
    assert trace_engine.check_knowledge(config).to_dict() == result.facts["knowledge"]


def test_a_folder_that_holds_something_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.txt").write_text("mine")
    with pytest.raises(InputError, match="new or empty folder"):
        trace_engine.unlearn(tiny_config(tmp_path), out=tmp_path / "out")
    assert (tmp_path / "out" / "kept.txt").read_text() == "mine"


def test_every_public_name_resolves() -> None:
    for name in trace_engine.__all__:
        assert getattr(trace_engine, name) is not None
    assert dir(trace_engine) == sorted(trace_engine.__all__)
    with pytest.raises(AttributeError, match="no attribute 'unlearnt'"):
        trace_engine.unlearnt  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'pandas', 'pydantic'}"
    code = f"import trace_engine, sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
