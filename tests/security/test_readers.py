"""Folders that a stranger may have written: whatever JSON stands in their files, each reader
reads it or refuses it in a sentence, and raises nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmark.cases import tiny_bench
from tests.runs.light_worker import config
from trace_engine.audit.manifest import changed_files, read_manifest
from trace_engine.audit.record import Record, untold_ends
from trace_engine.audit.report_file import read_report
from trace_engine.benchmark import plan
from trace_engine.benchmark.store import TrialStore
from trace_engine.bundled import PACK
from trace_engine.causal.rerouted_results import Rerouted
from trace_engine.causal.results import Ablation, Scan
from trace_engine.causal.store import CellStore
from trace_engine.config import Cell
from trace_engine.errors import TraceError
from trace_engine.routing import Profile
from trace_engine.runs import list_runs, open_run
from trace_engine.runs.directory import RunDirectory
from trace_engine.sweeps import SweepDirectory, list_sweeps

RUN_ID = "20260101-000000-abcdef"
_WORDS = "done running stopped train eval began .. state step kind format schema attempt notes"
_WORDS += " process pid event part time files settings meta n correct loss cells points what scan"
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from([*_WORDS.split(), "x" * 5000, "\0"]),
)
_KEYS = st.one_of(st.text(max_size=8), st.sampled_from(_WORDS.split()))
ANY = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=8,
)
"""Any JSON, NaN and infinity included, with words that the formats use."""

few = settings(max_examples=60, deadline=None)


def altered(data: Any, draw: st.DrawFn) -> Any:
    """JSON that was valid, with one value somewhere in it replaced, or one key removed."""
    if isinstance(data, dict) and data and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(data)))
        if not draw(st.integers(0, 4)):
            return {k: v for k, v in data.items() if k != key}
        return data | {key: altered(data[key], draw)}
    if isinstance(data, list) and data and draw(st.integers(0, 3)):
        at = draw(st.integers(0, min(2, len(data) - 1)))
        return [altered(v, draw) if n == at else v for n, v in enumerate(data)]
    return draw(ANY)


@st.composite
def changed(draw: st.DrawFn, data: Any) -> Any:
    return altered(data, draw)


def refused_or_read(call: Callable[[], object]) -> None:
    """The call returns, or raises an error with a short sentence."""
    said = "read"
    try:
        call()
    except TraceError as error:
        said = str(error)
    assert 0 < len(said) < 2000
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one run that has ended."""
    folder = tmp_path_factory.mktemp("home")
    run = RunDirectory(folder / "runs" / RUN_ID)
    with run.create(config(folder)):
        run.update(state="stopped", step=2)
    rows = [{"attempt": 1, "kind": kind, "step": 1, "loss": 0.5} for kind in ("train", "eval")]
    (run.path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run.path / "facts.json").write_text('{"identity": {"config": {}}}')
    (run.path / "progress.json").write_text('{"phase": "steps", "done": 1}')
    return folder


FILES = ["status.json", "metrics.jsonl", "facts.json", "progress.json", "launch.json"]
FILES += ["events.jsonl"]


@pytest.mark.parametrize("name", FILES)
@few
@given(data=st.data())
def test_a_run_directory(name: str, home: Path, data: st.DataObject) -> None:
    file = home / "runs" / RUN_ID / name
    kept = file.read_bytes()
    lines = kept.decode().splitlines() if name.endswith("l") else [kept.decode()]
    made = [json.dumps(data.draw(changed(json.loads(line)))) for line in lines]
    try:
        file.write_text("".join(f"{line}\n" for line in made))
        [summary] = list_runs(home)
        json.dumps(summary.to_dict())
        run = open_run(RUN_ID, home)
        for read in (run.status, run.rows, run.facts, run.progress, run.config, run.events):
            refused_or_read(read)
        refused_or_read(run.sweep)
        refused_or_read(run.launch_folder)
    finally:
        file.write_bytes(kept)


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_profile(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.getbasetemp() / "a-profile"
    if not folder.exists():
        shutil.copytree(PACK / "profile", folder)
    head = json.loads((PACK / "profile" / "profile.json").read_text())
    (folder / "profile.json").write_text(json.dumps(data.draw(changed(head))))
    refused_or_read(lambda: Profile.load(folder))


@few
@given(found=ANY)
def test_a_result_of_causal_evidence(found: Any) -> None:
    given_ = found if isinstance(found, dict) else {"what": found}
    for kind in (Scan, Ablation, Rerouted):
        refused_or_read(lambda kind=kind: kind.from_dict(given_))  # type: ignore[misc]


@few
@given(found=ANY)
def test_an_experts_answers(tmp_path_factory: pytest.TempPathFactory, found: Any) -> None:
    store = CellStore(tmp_path_factory.getbasetemp() / "answers")
    store.path(Cell(0, 1)).write_text(json.dumps(found))
    store.path(Cell(0, 1)).with_name("layer-000.json").write_text(json.dumps(found))
    assert store.read(Cell(0, 1), 4) is None
    refused_or_read(lambda: store.read_check(0))


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrialStore, plan.Trial]:
    """A run of a table, and where its result would lie."""
    folder = tmp_path_factory.mktemp("table")
    bench = tiny_bench(folder)
    contents = plan.Contents({"plain": {"source": "r"}}, "q", {"plain": {"model": "m"}})
    (folder / "trials").mkdir()
    return TrialStore(folder), plan.trial(bench, contents, plan.rows_of(bench)[0], "test", 0, 0)


@few
@given(found=ANY, schema=st.sampled_from([None, plan.SCHEMA]))
def test_a_result_of_a_table(
    asked: tuple[TrialStore, plan.Trial], found: Any, schema: int | None
) -> None:
    store, trial = asked
    if schema is not None and isinstance(found, dict):
        found = found | {"schema": schema}
    store.keep(trial, found)
    refused_or_read(lambda: store.find(trial))


@few
@given(found=ANY, events=st.lists(ANY, max_size=4))
def test_an_audits_folder(
    tmp_path_factory: pytest.TempPathFactory, found: Any, events: list[Any]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "audit"
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    for name in ("report.json", "manifest.json", "parts/drift.json"):
        (folder / name).write_text(json.dumps(found))
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    record = Record(folder)
    refused_or_read(lambda: read_report(folder))
    refused_or_read(lambda: changed_files(folder, read_manifest(folder)))
    refused_or_read(lambda: record.find("drift", None))
    refused_or_read(lambda: untold_ends(record.events()))


@few
@given(status=ANY, points=ANY)
def test_a_sweep(tmp_path_factory: pytest.TempPathFactory, status: Any, points: Any) -> None:
    base = tmp_path_factory.getbasetemp() / "sweeps-home"
    folder = base / "sweeps" / RUN_ID
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.yaml").write_text("name: n\ngrids: []\nbase: {}\n")
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "points.json").write_text(json.dumps(points))
    found = SweepDirectory(folder)
    list_sweeps(base)
    for read in (found.status, found.points, found.repeats, found.launch_folder, found.asked):
        refused_or_read(read)
