"""One config, three doors: page's worker, CLI and Python give the same rows and weights, bit for
bit."""

import json
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from tests.app import conftest as app_fixtures
from tests.runs.real import FORGET, curve, settings, start, weights, write_sets
from tests.runs.waiting import until_state
from tests.support.models import save_tiny_dense
from trace_engine.config import ProfileConfig, SetConfig, UnlearnConfig, read_config
from trace_engine.disk import read_json, read_lines
from trace_engine.progress import ignore_progress
from trace_engine.routing import load_mismatch
from trace_engine.runs import (
    RunDirectory,
    RunStatus,
    find_profile,
    list_runs,
    open_run,
    store_set,
)
from trace_engine.runs.profiles import ProfileAnswer
from trace_engine.sets import Document, DocumentSet, load_set

pytestmark = pytest.mark.faults


open_page = app_fixtures.open_page


def test_page_cli_and_python_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_page: Callable[..., AppTest]
) -> None:
    """What the page shows as its file, its command and its Python lines is what it launches."""
    write_sets(tmp_path)
    base = tmp_path / "home"
    monkeypatch.setenv("TRACE_HOME", str(base))
    # The page leaves the threads to the machine; every door must sum in the same order here.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    st.cache_resource.clear()
    st.cache_data.clear()
    profiled = ProfileAnswer(settings(tmp_path).profile_config())
    profiled.get(ignore_progress, base)

    app = open_page(
        "unlearn",
        profile=profiled.key,
        sel='{"top_k": 1}',
        u_max_steps="10",
        u_batch_size="3",
        u_every="4",
        u_learning_rate="0.001",
    )
    assert not app.exception
    shown = {block.language: str(block.value) for block in app.code}
    words = shlex.split(shown["bash"], comments=True)
    (tmp_path / words[-1]).write_text(shown["yaml"])
    app.button(key="u_launch").click().run()
    assert not app.exception
    [launched] = list_runs(base)
    page = open_run(launched.id, base)

    program = [
        sys.executable,
        "-c",
        "import sys; from trace_engine.cli import main; sys.exit(main())",
    ]
    done = subprocess.run(
        [*program, *words[1:], "--json", "--out", str(tmp_path / "cli")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    assert printed["state"] == "done"
    subprocess.run([sys.executable, "-c", shown["python"]], cwd=tmp_path, check=True)
    result = tmp_path / "result"
    in_python = curve(read_lines(result / "metrics.jsonl"))
    assert len(in_python) == 10 + 4
    until_state(page, "done", "failed", "interrupted")
    assert page.status().state == "done", (page.status(), page.log_tail())

    assert json.dumps(curve(printed["rows"])) == json.dumps(in_python)
    assert json.dumps(curve(page.rows())) == json.dumps(in_python)
    one = weights(result / "model")
    for run in (RunDirectory(tmp_path / "cli"), page):
        folder = run.model_folder()
        assert folder is not None
        assert weights(folder) == one
        assert run.config() == read_config(tmp_path / words[-1])
        facts = run.facts()
        facts.pop("identity")
        assert facts == read_json(result / "facts.json")

    # The same artefacts, self-contained, with a profile that the cache holds once.
    def names(run: RunDirectory) -> set[str]:
        return {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}

    # Both log that few documents are held out; the page's worker also has its output there.
    assert names(page) == names(RunDirectory(tmp_path / "cli"))
    for run in (page, RunDirectory(tmp_path / "cli")):
        assert any("Few documents are held out" in note for note in run.status().notes)
    cached = find_profile(str(page.facts()["profile_key"]), base)
    before, after = page.profile_before(), page.profile_after()
    assert cached is not None
    assert before is not None
    assert after is not None
    assert (before / "counts.npz").read_bytes() == (cached / "counts.npz").read_bytes()
    assert [p.name for p in (base / "profiles").iterdir() if p.name != ".work"] == [profiled.key]
    assert load_mismatch(before).documents_forget == load_mismatch(after).documents_forget == 20


def work_on(run: RunDirectory, config: ProfileConfig | UnlearnConfig, base: Path) -> RunStatus:
    run.create(config).release()
    process = start(run, base)
    process.join(120)
    assert process.exitcode == 0
    return run.status()


@pytest.mark.slow
def test_a_profile_job_answers_from_the_cache_the_second_time(tmp_path: Path) -> None:
    write_sets(tmp_path)
    with (tmp_path / "retain.txt").open("a") as file:
        file.write(f"\n\n{FORGET[0]}\n\n{FORGET[3]}")
    config = settings(tmp_path).profile_config().model_copy(update={"permutations": 99})
    messages = []
    for name in ("one", "two"):
        run = RunDirectory(tmp_path / name)
        messages.append(work_on(run, config, tmp_path / "home").message.split(" was ")[1])
        key = str(run.facts()["profile_key"])
        assert find_profile(key, tmp_path / "home") is not None
        # What a page cannot know of sets that only the worker reads.
        assert run.facts()["overlap"] == {"count": 2, "forget_total": 20, "retain_total": 32}
    assert messages == ["computed.", "already there."]


def test_a_refused_setting_keeps_the_finished_profile(tmp_path: Path) -> None:
    write_sets(tmp_path)
    nothing = {"scope": "threshold", "threshold": 9.0}
    refused = RunDirectory(tmp_path / "refused")
    config = settings(tmp_path, selection=nothing, max_steps=1)
    status = work_on(refused, config, tmp_path / "home")
    assert status.state == "failed"
    assert "There is nothing to calibrate." in status.message
    [kept] = [path for path in (tmp_path / "home" / "profiles").iterdir() if path.name != ".work"]
    before = kept.stat().st_mtime_ns
    corrected = RunDirectory(tmp_path / "corrected")
    assert work_on(corrected, settings(tmp_path, max_steps=1), tmp_path / "home").state == "done"
    assert corrected.facts()["profile_key"] == kept.name
    assert kept.stat().st_mtime_ns == before


@pytest.mark.fault_row(20)
def test_a_dense_model_fails_with_a_sentence(tmp_path: Path) -> None:
    write_sets(tmp_path)
    model = {"source": str(save_tiny_dense(tmp_path / "dense"))}
    run = RunDirectory(tmp_path / "run")
    status = work_on(run, settings(tmp_path, model=model), tmp_path / "home")
    assert status.state == "failed"
    assert "No routed experts" in status.message
    assert "Traceback" not in "\n".join(run.log_tail())


def test_a_stored_set_reads_back_as_itself(tmp_path: Path) -> None:
    rows = [Document("a", "why? one\ntwo", "why?"), Document("b", "=SUM(1)", None)]
    uploaded = DocumentSet.of("upload.txt", "upload", rows)
    source = store_set(uploaded, tmp_path)
    assert store_set(uploaded, tmp_path) == source
    assert stat.S_IMODE(os.stat(source).st_mode) == 0o600
    assert Path(source).parent == tmp_path / "sets"
    again = load_set(SetConfig(source=source))
    assert again.fingerprint == uploaded.fingerprint
    assert again.documents == uploaded.documents
