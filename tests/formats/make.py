"""Writes the kept files of the present formats: `python -m tests.formats.make`.

Run it when a format's number rises, with a new folder's name in `KEPT`, and commit what it writes;
folders of earlier formats stay as they are, because every later version must open them. Everything
is of a tiny random model, named by paths relative to the folder, so that a copy of it resumes.
Where only audits rose, `python -m tests.formats.make audit` writes one alone, of v1's models and
sets, into `AUDIT_KEPT`, with the benchmarks that it asks. `later` writes what came after v1 beside
it, of the same models and sets, into `LATER`.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

import trace_engine
from tests.audit.cases import write_published
from trace_engine import formats
from trace_engine.audit import background as audits
from trace_engine.audit.record import LOCK
from trace_engine.audit.run import run_audit
from trace_engine.audit.settings import parse_audit
from trace_engine.benchmark import read_bench, run_table
from trace_engine.causal.perform import perform
from trace_engine.causal.settings import parse_causal
from trace_engine.cli import main as command
from trace_engine.config import UnlearnConfig, parse_config
from trace_engine.disk import read_json, write_json
from trace_engine.errors import InputError
from trace_engine.export import background
from trace_engine.health import tiny
from trace_engine.progress import Progress
from trace_engine.routing import windows
from trace_engine.runs import RunDirectory, evidence
from trace_engine.runs.asking import write_asked
from trace_engine.runs.places import subfolder
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.worker import work
from trace_engine.sweeps.directory import SweepDirectory
from trace_engine.sweeps.plan import plan_sweep

KEPT = Path(__file__).parent / "v1"
AUDIT_KEPT = Path(__file__).parent / "v6"
LATER = Path(__file__).parent / "later"
BLOCKS, EVIDENCE = "profile", "evidence"
"""A profile of schema 2, and jobs of evidence as a page asks for them."""
DONE, STOPPED, SWEEP, JOB, UNNUMBERED = (f"20260101-00000{n}-aaaaaa" for n in range(5))
STOPPED_AT = 2
ELSEWHERE = "elsewhere"
"""The folder that runs claim to have been launched in: not on the machine that opens them."""


def settings(**changes: Any) -> UnlearnConfig:
    """A run of the tiny model; the sources are relative to the kept folder."""
    values: dict[str, Any] = {
        "model": {"source": "model", "device": "cpu"},
        "forget": {"source": "forget.txt"},
        "retain": {"source": "retain.txt"},
        "selection": {"top_k": 1},
        "trainable": {"kind": "selected_experts"},
        "evaluation": {"every": 2, "questions": "validation.jsonl"},
        "max_steps": 4,
        "batch_size": 2,
        "max_length": 32,
        "checkpoint_every": 2,
        "learning_rate": 1e-3,
        "profile_max_length": 32,
        "sample_tokens": 1000,
        "threads": 1,
    }
    config = parse_config(values | changes)
    assert isinstance(config, UnlearnConfig)
    return config


def write_questions(path: Path, shift: int) -> None:
    rows = [
        {
            "question": f"{category} {n}?",
            "choices": ["one", "two", "three", "four"],
            "answer": (n + shift) % 4,
            "category": category,
        }
        for category in ("hazard", "general")
        for n in range(4)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(home: Path, run_id: str, config: UnlearnConfig, stop_at: int | None = None) -> None:
    """Compute a run as its worker does, up to a step or to its end."""
    run, stop = RunDirectory(subfolder("runs", home) / run_id), StopFlag()

    def heard(progress: Progress) -> None:
        stop.requested |= progress.phase == "unlearning" and progress.done == stop_at

    with run.create(config):
        status = work(run, stop, base=home, report=heard)
        assert status.state == ("done" if stop_at is None else "stopped"), status.message
    # Nothing of the machine that made them.
    (run.path / "launch.json").write_text(json.dumps({"folder": ELSEWHERE}))
    record = json.loads((run.path / "status.json").read_text()) | {"process": None}
    (run.path / "status.json").write_text(json.dumps(record, indent=1) + "\n")
    (run.path / "log.txt").unlink(missing_ok=True)
    (run.path / "lock").unlink()


def write_table(folder: Path) -> None:
    """Two rows, one setting each, one seed."""
    data = {
        "kind": "bench",
        "name": "kept",
        "settings": settings().model_dump(
            mode="json", include={"model", "forget", "max_steps", "batch_size", "max_length"}
        )
        | {"profile_max_length": 32, "sample_tokens": 1000, "threads": 1},
        "validation": "validation.jsonl",
        "test": "test.jsonl",
        "retain": {"plain": {"parts": [{"source": "retain.txt"}]}},
        "methods": {"graddiff": {"settings": {"method": "graddiff"}, "grid": {}}},
        "weightings": {
            "uniform": {"role": "baseline", "settings": {"weights": {"rule": "uniform"}}},
            "mean": {"role": "trace", "settings": {"weights": {"rule": "mean"}}},
        },
        "levels": [0.9],
        "budget": 1,
        "seeds": 1,
        "resamples": 100,
    }
    path = folder / "bench.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    run_table(read_bench(path), folder / "table")
    for name in ("profiles", "sets", "questions"):
        shutil.rmtree(folder / "table" / name, ignore_errors=True)
    (folder / "table" / "lock").unlink()


def write_sweep(home: Path) -> None:
    """A sweep of two points, of which the finished run answers the first."""
    sweep = SweepDirectory(subfolder("sweeps", home) / SWEEP)
    grids = [{"selection.top_k": [1, 2]}]
    plan = plan_sweep(settings(), grids, "kept")
    with sweep.create(settings(), grids, plan, "kept", None):
        sweep.record_run(0, DONE)
        sweep.update(state="stopped", folder=ELSEWHERE)
    sweep.lock_path.unlink()


def write_evidence(folder: Path) -> None:
    """One job of each kind of causal evidence: settings and result; and a scan's answers."""
    asked = {"model": MODEL, "questions": "validation.jsonl", "profile": "profile"}
    asked |= {"permutations": 99, "draws": 2, "shuffles": 2}
    jobs: dict[str, dict[str, Any]] = {
        "scan": {},
        "ablate": {"cells": [[0, 1], [1, 2]], "order": "one_at_a_time"},
        "rerouted": {"before": MODEL, "model": {"source": f"runs/{DONE}/model"}, "profile": None},
    }
    for what, more in jobs.items():
        config = parse_causal(asked | more | {"what": what})
        kept = folder / what
        kept.mkdir(parents=True)
        write_json(kept / "settings.json", config.model_dump(mode="json"))
        write_json(kept / "result.json", perform(config, folder / "answers").to_dict())


def write_benchmarks() -> dict[str, str]:
    """MUSE, and TOFU without two of its sets, whose model utility is then not known."""
    write_published(Path())
    for name in ("real_authors", "world_facts"):
        Path(f"tofu/{name}_perturbed.json").unlink()
    return {"muse": "muse", "tofu": "tofu"}


def write_audit(folder: Path, home: Path) -> None:
    """An audit of the finished run's model, by a version whose pages no later one writes."""
    config = parse_audit(
        {
            "name": "kept",
            "model": {"source": f"runs/{DONE}/model", "device": "cpu"},
            "before": MODEL,
            "forget": {"source": "forget.txt"},
            "retain": {"source": "retain.txt"},
            "questions": "validation.jsonl",
            "published": write_benchmarks(),
            "max_length": 32,
            "threads": 1,
            "causal": {"experts": 2, "draws": 2, "permutations": 99},
            "relearning": {"steps": 2, "ask_at": [2], "batch_size": 2, "seeds": [0]},
            "recovery": {"steps": 2, "ask_at": [2], "batch_size": 2},
            "asking": {"templates": ["say, {question}:"], "prefixes": ["Please. "]},
        }
    )
    with mock.patch.object(trace_engine, "__version__", "0 (kept)"):
        run_audit(config, folder, base=home)
    (folder / LOCK).unlink(missing_ok=True)


def write_audit_jobs(folder: Path) -> None:
    """Two stopped audits that a page asked for, without their reports: one as it is written now,
    one of before their files carried the format's number."""
    for name in (JOB, UNNUMBERED):
        job = folder / name
        job.mkdir(parents=True)
        shutil.copy("audit/audit.yaml", job)
        audits._end(job, "stopped", "Stopped; finished parts are kept.")
        asked = {"token": "press", "folder": ELSEWHERE}
        write_asked(job / "launch.json", "0123456789abcdef", **{formats.FIELD: 1}, **asked)
    for path in (folder / UNNUMBERED).glob("*.json"):
        known = json.loads(path.read_text(encoding="utf-8"))
        for later in (formats.FIELD, "owner", "began"):
            known.pop(later, None)
        write_json(path, known)


def write_export_notes(folder: Path) -> None:
    """Why two exports failed: noted as it is now, and as it was before a note had its number."""
    folder.mkdir(parents=True)
    for name in (DONE, UNNUMBERED):
        note = background._beside(folder / f"{name}-merged")[1]
        background._note_failure(note, "The disk is full.")
        if name == UNNUMBERED:
            known = json.loads(note.read_text(encoding="utf-8"))
            del known[formats.FIELD]
            write_json(note, known)


MODEL = {"source": "model", "device": "cpu"}


def audit_alone() -> None:
    """An audit of today's format, of what the first format kept."""
    shutil.rmtree(AUDIT_KEPT, ignore_errors=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "kept"
        shutil.copytree(KEPT, folder, ignore=shutil.ignore_patterns("audit"))
        with contextlib.chdir(folder):
            write_audit(Path("audit"), Path(scratch))
        for name in ("audit", "muse", "tofu"):
            shutil.copytree(folder / name, AUDIT_KEPT / name)


def write_blocks(folder: Path, home: Path) -> None:
    """A profile whose sides are counted in blocks of documents, and its map."""
    os.environ["TRACE_HOME"] = str(home)
    small = {"MOST_DOCUMENTS": 3, "BLOCKS": 4, "WINDOW_DOCUMENTS": 3}
    words = "profile --model model --device cpu --forget forget.txt --retain retain.txt"
    with mock.patch.multiple(windows, **small):
        code = command([*words.split(), "--permutations", "99", "--out", str(folder)])
    assert code == 0


def write_evidence_jobs(folder: Path, home: Path) -> None:
    """One that is done, and one that failed."""
    asked = {"model": MODEL, "questions": "validation.jsonl", "profile": "profile"}
    asked |= {"permutations": 99, "draws": 2, "what": "ablate", "cells": [[0, 1]]}

    def fail(*_: object) -> None:
        raise InputError("These questions cannot be asked.")

    with mock.patch.object(evidence, "WORKER", ["/bin/true"]):
        for name, perform_ in (("done", evidence.default_perform), ("failed", fail)):
            config = parse_causal(asked | {"seed": len(name)})
            started = evidence.start_evidence(config, home, owner="somebody")
            evidence.work(started.folder, StopFlag(), home, perform_)
            assert read_json(started.folder / "status.json")["state"] == name
            unwanted = shutil.ignore_patterns("lock", "log.txt", "progress.json")
            shutil.copytree(started.folder, folder / name, ignore=unwanted)


def later_alone() -> None:
    shutil.rmtree(LATER, ignore_errors=True)
    LATER.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "kept"
        shutil.copytree(KEPT, folder)
        with contextlib.chdir(folder):
            write_blocks(Path("in-blocks"), Path(scratch))
            write_evidence_jobs(Path("jobs"), Path(scratch))
        shutil.copytree(folder / "in-blocks", LATER / BLOCKS)
        shutil.copytree(folder / "jobs", LATER / EVIDENCE)


def main() -> None:
    if sys.argv[1:] in (["audit"], ["later"]):
        audit_alone() if sys.argv[1] == "audit" else later_alone()
        return
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir()
    with contextlib.chdir(KEPT), tempfile.TemporaryDirectory() as scratch:
        tiny.write_model(Path("model"), hidden=8)
        tiny.write_sets(Path())
        write_questions(Path("validation.jsonl"), 0)
        write_questions(Path("test.jsonl"), 1)
        home = Path(scratch)
        write_run(home, DONE, settings(name="kept, done"))
        write_run(home, STOPPED, settings(name="kept, stopped", seed=1), STOPPED_AT)
        (key,) = {path.name for path in (home / "profiles").glob("[0-9a-f]*")} & {
            json.loads((home / "runs" / DONE / "facts.json").read_text())["profile_key"]
        }
        shutil.copytree(home / "profiles" / key, "profile")
        write_sweep(home)
        for name in ("runs", "sweeps"):
            shutil.copytree(home / name, name)
        os.environ["TRACE_HOME"] = scratch
        for name in ("select", "weights"):
            command([name, "profile", "--top-k", "1", "--out", f"{name}.json"])
        write_table(Path())
        write_evidence(Path("evidence"))
        write_audit(Path("audit"), home)
        write_audit_jobs(Path("audits"))
        write_export_notes(Path("exports"))
    print(sum(path.stat().st_size for path in KEPT.rglob("*") if path.is_file()) // 1000, "kB")


if __name__ == "__main__":
    main()
