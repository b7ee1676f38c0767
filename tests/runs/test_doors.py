"""One config, three doors: page's worker, CLI and Python give the same rows and weights, bit for
bit."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runs.real import curve, settings, start, weights, write_sets
from tests.runs.waiting import until_state
from tests.support.models import save_tiny_dense
from trace_engine.config import ProfileConfig, SetConfig, UnlearnConfig, to_yaml
from trace_engine.routing import load_mismatch
from trace_engine.runs import RunDirectory, RunStatus, find_profile, launch, open_run, store_set
from trace_engine.sets import Document, DocumentSet, load_set
from trace_engine.unlearning import unlearn

pytestmark = pytest.mark.faults


def test_page_cli_and_python_are_one(tmp_path: Path) -> None:
    write_sets(tmp_path)
    config = settings(tmp_path)
    base = tmp_path / "home"

    result = unlearn(config, out=tmp_path / "python")
    result.session.close()
    in_python = curve(result.rows)
    assert len(in_python) == 10 + 4

    (tmp_path / "config.yaml").write_text(to_yaml(config))
    program = "import sys; from trace_engine.cli import main; sys.exit(main())"
    done = subprocess.run(
        [
            *(sys.executable, "-c", program, "unlearn", str(tmp_path / "config.yaml")),
            *("--json", "--out", str(tmp_path / "cli")),
        ],
        env=os.environ | {"TRACE_HOME": str(base)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    assert printed["state"] == "done"

    page = open_run(launch(config, base), base)
    until_state(page, "done", "failed", "interrupted")
    assert page.status().state == "done", (page.status(), page.log_tail())

    assert json.dumps(curve(printed["rows"])) == json.dumps(in_python)
    assert json.dumps(curve(page.rows())) == json.dumps(in_python)
    one = weights(tmp_path / "python" / "model")
    for run in (RunDirectory(tmp_path / "cli"), page):
        folder = run.model_folder()
        assert folder is not None
        assert weights(folder) == one
        facts = run.facts()
        facts.pop("identity")
        assert facts == json.loads(json.dumps(result.facts))

    # The same artefacts, self-contained, with a profile that the cache holds once.
    def names(run: RunDirectory) -> set[str]:
        return {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}

    assert names(page) - {"log.txt"} == names(RunDirectory(tmp_path / "cli"))
    cached = find_profile(str(page.facts()["profile_key"]), base)
    before, after = page.profile_before(), page.profile_after()
    assert cached is not None
    assert before is not None
    assert after is not None
    assert (before / "counts.npz").read_bytes() == (cached / "counts.npz").read_bytes()
    assert len(list((base / "profiles").iterdir())) == 1
    assert load_mismatch(before).documents_forget == load_mismatch(after).documents_forget == 20


def work_on(run: RunDirectory, config: ProfileConfig | UnlearnConfig, base: Path) -> RunStatus:
    run.create(config).release()
    process = start(run, base)
    process.join(120)
    assert process.exitcode == 0
    return run.status()


def test_a_profile_job_answers_from_the_cache_the_second_time(tmp_path: Path) -> None:
    write_sets(tmp_path)
    config = settings(tmp_path).profile_config().model_copy(update={"permutations": 99})
    messages = []
    for name in ("one", "two"):
        run = RunDirectory(tmp_path / name)
        messages.append(work_on(run, config, tmp_path / "home").message.split(" was ")[1])
        key = str(run.facts()["profile_key"])
        assert find_profile(key, tmp_path / "home") is not None
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
