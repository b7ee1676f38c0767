"""The commands that compute, as a user types them: own process, tiny model, real signals."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs.real import curve, settings, start, weights, write_sets
from tests.runs.waiting import until
from tests.support.models import tiny_olmoe
from trace_engine.config import to_yaml
from trace_engine.demo.run import run_demo
from trace_engine.routing import Profile
from trace_engine.runs import RunDirectory

PROGRAM = [sys.executable, "-c", "import sys; from trace_engine.cli import main; sys.exit(main())"]


def command(home: Path, *words: str, cwd: Path | None = None) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*PROGRAM, *words],
        cwd=cwd,
        env=os.environ | {"TRACE_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_profile_writes_a_profile_and_shows_progress(tmp_path: Path) -> None:
    write_sets(tmp_path)
    words = ["profile", "--model", str(tiny_olmoe()), "--out", str(tmp_path / "out"), "--json"]
    words += ["--forget", str(tmp_path / "forget.txt"), "--retain", str(tmp_path / "retain.txt")]
    process = command(tmp_path / "home", *words, "--permutations", "99")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    data = json.loads(out)
    assert (data["forget"]["documents"], data["retain"]["documents"]) == (20, 30)
    assert "tokens/s" in err
    profile = Profile.load(tmp_path / "out")
    assert int(profile.forget.tokens_D.sum()) == data["forget"]["tokens"]


@pytest.mark.faults
def test_ctrl_c_stops_and_resume_ends_with_the_same_bits(tmp_path: Path) -> None:
    write_sets(tmp_path)
    # Sets named as a user names them in their folder; the run goes on from anywhere.
    here = {"forget": {"source": "forget.txt"}, "retain": {"source": "retain.txt"}}
    config, home = settings(tmp_path, max_steps=40, checkpoint_every=50, **here), tmp_path / "home"
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    whole = RunDirectory(tmp_path / "whole")
    whole.create(settings(tmp_path, max_steps=40, checkpoint_every=50)).release()
    undisturbed = start(whole, home)
    undisturbed.join(240)
    assert undisturbed.exitcode == 0

    run = RunDirectory(tmp_path / "run")
    process = command(home, "unlearn", "c.yaml", "--out", "run", cwd=tmp_path)
    until(
        lambda: (run.path / "metrics.jsonl").exists() and run.status().step >= 2,
        "two steps",
        seconds=240,
    )
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped" in out
    assert f"runs resume {run.path}" in err
    assert "Traceback" not in err
    step = run.status().step
    assert 2 <= step < 40
    assert [c.step for c in run.checkpoints()] == [step]

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    resumed = command(home, "runs", "resume", str(run.path), "--json", cwd=elsewhere)
    out, err = resumed.communicate(timeout=240)
    assert resumed.returncode == 0, err
    assert json.loads(out)["attempt"] == 2
    other, one = run.model_folder(), whole.model_folder()
    assert one is not None
    assert other is not None
    assert curve(run.rows()) == curve(whole.rows())
    assert weights(other) == weights(one)


@pytest.mark.slow
def test_unlearn_says_overlap_and_knowledge_before_it_trains(tmp_path: Path) -> None:
    write_sets(tmp_path)
    forget, retain = tmp_path / "forget.txt", tmp_path / "retain.txt"
    retain.write_text(retain.read_text() + "\n\n" + forget.read_text().split("\n\n")[0])
    home, run = tmp_path / "home", RunDirectory(tmp_path / "run")
    (tmp_path / "c.yaml").write_text(to_yaml(settings(tmp_path, max_steps=1)))
    process = command(home, "unlearn", str(tmp_path / "c.yaml"), "--out", str(run.path))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    overlap = "1 of 20 forget documents are also in the retain set"
    verdict = run.facts()["knowledge"]["sentence"]
    told = err.splitlines()
    first_step = next(n for n, line in enumerate(told) if line.startswith("unlearning"))
    for sentence in (overlap, verdict):
        assert next(n for n, line in enumerate(told) if sentence in line) < first_step
        assert sentence in out
    asked = command(home, "know", str(tmp_path / "c.yaml"))
    out, err = asked.communicate(timeout=240)
    assert (asked.returncode, out) == (0, f"{verdict}\n"), err
    shown = command(home, "runs", "show", str(run.path))
    out, err = shown.communicate(timeout=60)
    assert overlap in out
    assert verdict in out
    assert "experts that the same tokens kept, step 1 against the start" in out
    listed = command(home, "runs", "show", str(run.path), "--json")
    assert any(overlap in note for note in json.loads(listed.communicate(timeout=60)[0])["notes"])


def test_the_demo_tells_its_story_and_leaves_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    write_sets(tmp_path)
    told: list[str] = []
    out = tmp_path / "demo"
    summary = run_demo(out, tell=told.append, config=settings(tmp_path))
    assert sorted(path.name for path in out.iterdir()) == [
        "profile",
        "run",
        "selection.json",
        "summary.json",
        "weights.json",
    ]
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["state"] == "done"
    assert summary["selected"] == json.loads((out / "selection.json").read_text())["cells"]
    story = "\n".join(told)
    assert "times as much (95\N{NO-BREAK SPACE}% interval" in story
    assert "forget loss: " in story
    assert RunDirectory(out / "run").status().state == "done"
