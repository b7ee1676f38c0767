"""Folders that a stranger may have written: whatever JSON stands in their files, each reader
reads it or refuses it in a sentence, and raises nothing else."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from app import compare_view, live, machine_view, runs_view
from tests.app import conftest as app_fixtures
from tests.app.stored import eval_row, train_row, unlearn_config
from tests.benchmark.cases import tiny_bench
from tests.security.test_fuzz import in_time
from trace_engine.audit.manifest import changed_files, read_manifest
from trace_engine.audit.record import Record, untold_ends
from trace_engine.audit.report_file import read_report
from trace_engine.benchmark import plan
from trace_engine.benchmark.store import TrialStore
from trace_engine.bundled import PACK
from trace_engine.causal.rerouted_results import Rerouted
from trace_engine.causal.results import Ablation, Scan
from trace_engine.causal.store import CellStore
from trace_engine.cli.main import main
from trace_engine.config import Cell, UnlearnConfig
from trace_engine.errors import TraceError
from trace_engine.export import export_run
from trace_engine.export.card import model_card
from trace_engine.routing import Profile
from trace_engine.runs import delete, import_run, launcher, list_runs, open_run
from trace_engine.runs.curve import Curve
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
    st.sampled_from([*_WORDS.split(), "x" * 5000, "\0", "\ud800", 1e300, 10**22, 10**400]),
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
    asked = {"question": QUESTION, "token": "t", "sweep": RUN_ID, "owner": "somebody"}
    with run.create(unlearn_config(name="a stranger's"), asked):
        run.update(state="running", process={"pid": 1, "started": 1.5})
        run.update(state="done", step=2, notes=["It was slow."], started=2.5)
        run.event("done", peak_memory=10**9, processor_seconds=1.5)
    rows = [eval_row(0, 0.9, 0.8, picked={"0": 1}), train_row(1), eval_row(2, 0.3, 0.7, picked={})]
    lines = [json.dumps({"attempt": 1, **row}) + "\n" for row in rows]
    (run.path / "metrics.jsonl").write_text("".join(lines))
    (run.path / "facts.json").write_text(json.dumps(FACTS))
    told = {"phase": "steps", "done": 1, "total": 2, "unit": "steps"}
    (run.path / "progress.json").write_text(
        json.dumps(told | {"per_second": 0.5, "eta_seconds": 2})
    )
    return folder


QUESTION = "what it computes"
_SIDE = {"name": "s", "documents": 9, "trained_on": 8, "training_tokens": 99, "measured_on": 1}
FACTS = {
    "knowledge": {"knows": True, "sentence": "It knows."},
    "trainable": {
        **{"kind": "selected_experts", "parameters": 10, "total": 100, "share": 0.1},
        "whole_gradients": ["a.b"],
    },
    "selection": {"cells": [[1, 2], [3, 0]]},
    "method": {"layer": 3},
    "anchor": {"sentence": "It is anchored."},
    "control": {"sentence": "It is a control."},
    "weights": {"rule": "mean", "diagnostics": {"hardness": 1, "ess_share": 0.5, "max_weight": 2}},
    "overlap": {"count": 1, "forget_total": 9, "retain_total": 9},
    "held_out": True,
    "forget": _SIDE,
    "retain": _SIDE,
    "questions": {"fingerprint": "f"},
    "model": {"fingerprint": "f", "revision": None, "stored_as": "", "dtype": "float32"},
    "identity": {"config": {}, "model": "f"},
    "kept": {"step": 2, "sentence": "The last."},
    "ended": None,
    "beta_note": "",
    "profile_key": "ab" * 16,
    "versions": {"trace": "1"},
    "threads": 1,
}


@contextmanager
def spoilt(home: Path, name: str, data: st.DataObject) -> Iterator[None]:
    """The run's file with other JSON somewhere in it."""
    file = home / "runs" / RUN_ID / name
    kept = file.read_bytes()
    lines = kept.decode().splitlines() if name.endswith("l") else [kept.decode()]
    made = [json.dumps(data.draw(changed(json.loads(line)))) for line in lines]
    try:
        file.write_text("".join(f"{line}\n" for line in made))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRACE_HOME", str(home))
            yield
    finally:
        file.write_bytes(kept)


COMMANDS = [["list"], ["list", "--json"], ["show", RUN_ID], ["show", RUN_ID, "--json"]]
COMMANDS += [["log", RUN_ID], ["log", RUN_ID, "--json"]]


def said_by_commands() -> None:
    """Every command that reads a run ends by itself, on a terminal that takes UTF-8 only."""
    for words in COMMANDS:
        shown, told = io.BytesIO(), io.BytesIO()
        with (
            io.TextIOWrapper(shown, "utf-8", write_through=True) as out,
            io.TextIOWrapper(told, "utf-8", "backslashreplace", write_through=True) as err,
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = main(["runs", *words])
            said = told.getvalue().decode()
        assert code == 0 or (code == 2 and 10 < len(said) < 2000), (words, said)


def read_all(run: RunDirectory, read: Callable[[Callable[[], object]], object]) -> None:
    """Whatever lists, pages and exports read of a run, each through `read`."""
    for look in (run.status, run.rows, run.facts, run.progress, run.config, run.events):
        read(look)
    for label in (run.sweep, run.owner):
        label()
    read(run.launch_folder)
    read(run.log_tail)
    read(Curve(run.path / "metrics.jsonl").look)
    read(lambda: runs_view.fact_sentences(run.facts()))
    read(lambda: runs_view.progress_sentence(run.progress()))
    read(lambda: machine_view.events_frame(run.events()))
    read(lambda: live._judged(run.rows(), _settings(run)))
    read(lambda: model_card(run, _settings(run), "merged"))


def _settings(run: RunDirectory) -> UnlearnConfig:
    found = run.config()
    assert isinstance(found, UnlearnConfig)
    return found


FILES = ["status.json", "metrics.jsonl", "facts.json", "progress.json", "launch.json"]
FILES += ["events.jsonl"]


def assault(name: str, home: Path, data: st.DataObject) -> None:
    with spoilt(home, name, data):
        [summary] = list_runs(home)
        json.dumps(summary.to_dict())
        read_all(open_run(RUN_ID, home), refused_or_read)
        said_by_commands()
        assert launcher._known(QUESTION, "t", home) in (RUN_ID, None)
        compared, _ = compare_view.read({RUN_ID: "it"})
        if compared:
            compare_view.points(compared)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_run_directory(name: str, home: Path, data: st.DataObject) -> None:
    assault(name, home, data)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FILES)
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_run_directory_many_times(name: str, home: Path, data: st.DataObject) -> None:
    assault(name, home, data)


bundled, saved_profile = app_fixtures.bundled, app_fixtures.saved_profile
trace_home, open_page = app_fixtures.trace_home, app_fixtures.open_page


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", ["unlearn", "compare"])
@pytest.mark.parametrize("name", FILES)
def test_a_page_on_a_run_directory(
    name: str, page: str, home: Path, bundled: object, open_page: Callable[..., AppTest]
) -> None:
    @settings(max_examples=10, deadline=None)
    @given(data=st.data())
    def pages(data: st.DataObject) -> None:
        with spoilt(home, name, data):
            address = {"run": RUN_ID} if page == "unlearn" else {"compare_runs": RUN_ID}
            app = open_page(page, **address)
            assert not app.exception, app.exception[0]

    pages()


PLACES = [*FILES, "config.yaml", "log.txt", "lock", "checkpoints", "model"]


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo, Path.touch])
def test_something_else_in_a_files_place(
    name: str, put: Callable[[Path], object], home: Path, tmp_path: Path
) -> None:
    """A folder, a pipe that nobody writes to, or an empty file."""
    run = RunDirectory(shutil.copytree(home / "runs" / RUN_ID, tmp_path / "runs" / RUN_ID))
    there = run.path / name
    if there.is_file():
        there.unlink()
    put(there)
    with pytest.MonkeyPatch.context() as patch, in_time():
        patch.setenv("TRACE_HOME", str(tmp_path))
        list_runs()
        read_all(run, refused_or_read)
        said_by_commands()
        assert launcher._known(QUESTION, "t", None) in (RUN_ID, None)
        refused_or_read(lambda: import_run(run.path, tmp_path / "other"))
        refused_or_read(lambda: export_run(run, tmp_path / "export"))


@few
@given(name=st.sampled_from(FILES), data=st.data())
def test_no_page_refuses_what_was_imported(
    name: str, home: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    base = tmp_path_factory.getbasetemp() / "other-home"
    with spoilt(home, name, data):
        try:
            taken = import_run(home / "runs" / RUN_ID, base)
        except TraceError:
            return
    run = open_run(taken, base)
    read_all(run, lambda look: look())
    assert json.loads((run.path / "launch.json").read_text()).keys() <= {"folder"}
    delete(taken, base)


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
