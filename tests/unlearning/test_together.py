"""Several real processes make the step of one: the gradient in double precision, and whole runs."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.runs.real import settings, write_sets
from tests.runs.waiting import until
from tests.support.models import tiny_olmoe
from tests.unlearning.test_accumulation import EXACT, UNIFORM, config_of, update
from trace_engine.config import to_yaml
from trace_engine.routing import ALONE, Profile
from trace_engine.runs import RunDirectory
from trace_engine.unlearning import Session, together

PROGRAM = [sys.executable, "-c", "import sys; from trace_engine.cli import main; sys.exit(main())"]
CASES: dict[str, dict[str, Any]] = {
    "npo": {},
    # At its own beta of 4.5 the term is 5e-13 at this start, and any difference hides in that.
    "simnpo": {"method": "simnpo", "beta": 0.5},
    "ga": {"method": "ga", "weights": UNIFORM},
    "wga": {"method": "wga"},
    "satimp": {"method": "satimp", "beta1": 0.5},
    "undial": {"method": "undial", "micro_batch_size": 3},
    "rmu": {"method": "rmu"},
    "ceu": {"method": "ceu"},
    "idkdpo": {"method": "idkdpo", "weights": UNIFORM, "micro_batch_size": 3},
    "dpo": {"method": "dpo", "micro_batch_size": 3},
    "lora": {"trainable": {"kind": "lora", "lora_rank": 2}},
    "kl": {"retain_term": "kl"},
    "parts": {"micro_batch_size": 3, "weights": EXACT | {"normalise": "sequence"}},
    "batch": {"weights": EXACT | {"normalise": "batch"}},
    "frozen": {"weights": EXACT | {"normalise": "batch", "routing": "frozen"}},
    "shuffled": {"control": "shuffled_weights"},
    "matched": {"control": "uniform_matched_norm"},
    "few": {"batch_size": 2, "control": "uniform_matched_norm"},
}
SINGLE = {
    kind: {"trainable": {"kind": kind}, "micro_batch_size": 3}
    for kind in ("selected_experts", "top_experts")
}
"""Their slices are float32 leaves of their own: whole steps, to its precision."""
CHILD = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from tests.unlearning import cases, test_accumulation, test_together
from trace_engine.routing import Profile, joined
from trace_engine.unlearning import Session, together
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
cases.tiny_olmoe = lambda: sys.argv[3]
with joined() as workers:
    profile = Profile.load(folder / "profile")
    own = folder / str(workers.rank)
    own.mkdir()
    class Shared(Session):
        def __init__(self, *what, **named):
            super().__init__(*what, **named, workers=workers)
        def _retain_pass(self):
            found = super()._retain_pass()
            together.sum_gradients(workers, self.trainable.parameters())
            return found
    test_accumulation.Session = Shared
    for name, settings in test_together.CASES.items():
        size = settings.get("micro_batch_size")
        gradients, row = test_accumulation.update(own, profile, settings, size)
        save_file(gradients, out / f"{name}-{workers.rank}.safetensors")
        (out / f"{name}-{workers.rank}.json").write_text(json.dumps(row))
    for name, settings in test_together.SINGLE.items():
        config = test_accumulation.config_of(own, settings, None)
        with Session(config, profile=profile, workers=workers) as session:
            rows = [session.train_step() for _ in range(3)]
            tensors = {n: t.detach().clone() for n, t in session.trainable.tensors().items()}
        save_file(tensors, out / f"{name}-{workers.rank}.safetensors")
        (out / f"{name}-{workers.rank}.json").write_text(json.dumps(rows))
"""


def processes(
    words: list[str], count: int, home: Path, cwd: Path | None = None
) -> list["subprocess.Popen[str]"]:
    """As torchrun starts them; its own agent would only add seconds."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"TRACE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            words,
            cwd=cwd,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


@pytest.mark.slow
@pytest.mark.faults
def test_three_processes_make_the_gradient_of_one(tmp_path: Path) -> None:
    """16 documents, or 2, over three processes: ragged shares, and one without a document."""
    with Session(config_of(tmp_path, {}, None)) as session:
        profile: Profile = session.profile
    profile.save(tmp_path / "profile")
    words = [sys.executable, "-c", CHILD, str(tmp_path), str(tmp_path), str(tiny_olmoe())]
    children = processes(words, 3, tmp_path / "home")
    ended = [child.communicate(timeout=280) for child in children]
    told = "".join(err[-2000:] for _, err in ended)
    assert [child.returncode for child in children] == [0, 0, 0], told
    for name, case in CASES.items():
        expected, row = update(tmp_path, profile, case, None)
        for rank in range(3):
            found = load_file(tmp_path / f"{name}-{rank}.safetensors")
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
            told = json.loads((tmp_path / f"{name}-{rank}.json").read_text())
            assert told == pytest.approx(row, rel=1e-10, abs=1e-12), (name, rank)
    for name, single in SINGLE.items():
        with Session(config_of(tmp_path, single, None), profile=profile) as session:
            before = {n: t.detach().clone() for n, t in session.trainable.tensors().items()}
            rows = [session.train_step() for _ in range(3)]
            after = session.trainable.tensors()
        assert any(not torch.equal(after[n], t) for n, t in before.items())
        for rank in range(3):
            found = load_file(tmp_path / f"{name}-{rank}.safetensors")
            torch.testing.assert_close(found, dict(after), rtol=1e-3, atol=1e-4)
            told = json.loads((tmp_path / f"{name}-{rank}.json").read_text())
            for one, other in zip(rows, told, strict=True):
                for key in ("forget_loss", "retain_loss", "loss", "grad_norm", "weighted_gap"):
                    assert one[key] == pytest.approx(other[key], rel=1e-4), (name, rank, key)


def shares(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """The curve's numbers, for comparing up to rounding."""
    train = [row for row in rows if row["kind"] == "train"]
    found = {
        key: [row[key] for row in train]
        for key in ("forget_loss", "retain_loss", "retain_nll", "grad_norm", "weighted_gap")
    }
    evaluated = [row for row in rows if row["kind"] == "eval"]
    for side in ("forget_nll", "retain_nll"):
        found[f"held_out_{side}"] = [row[side]["value"] for row in evaluated]
    return found


def one_process(tmp_path: Path, config_file: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "one")
    done = subprocess.run(
        [*PROGRAM, "unlearn", str(config_file), "--out", str(run.path)],
        env=os.environ | {"TRACE_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
@pytest.mark.faults
def test_two_processes_give_the_curve_of_one_and_one_of_them_writes(tmp_path: Path) -> None:
    write_sets(tmp_path)
    rules = {"weights": {"normalise": "batch", "refresh_every": 4}, "schedule": "cosine"}
    keep = {"keep": {"which": "best", "forget_loss_at_least": 0.1}}
    config = tmp_path / "c.yaml"
    config.write_text(to_yaml(settings(tmp_path, **rules, **keep)))
    one = one_process(tmp_path, config)
    both = RunDirectory(tmp_path / "both")
    words = [*PROGRAM, "unlearn", str(config), "--out", str(both.path)]
    # A home of its own: the profile is shared work too.
    children = processes(words, 2, tmp_path / "home2")
    (out, err), (silent, said) = (child.communicate(timeout=280) for child in children)
    assert [child.returncode for child in children] == [0, 0], (err, said)
    assert silent == ""
    assert "2 processes share every step." in err
    assert "done, step 10 of 10" in out
    assert "All 10 steps done. The model of step" in out
    assert both.facts()["processes"] == 2
    expected, found = shares(one.rows()), shares(both.rows())
    for key, values in expected.items():
        assert found[key] == pytest.approx(values, rel=1e-4), key
    assert len(both.rows("train")) == 10
    lines = (both.path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(both.rows()), "each row was written once"
    assert both.facts()["kept"]["step"] == one.facts()["kept"]["step"]
    folders = one.model_folder(), both.model_folder()
    ours, theirs = (load_file(f / "model.safetensors") for f in folders if f is not None)
    start = load_file(tiny_olmoe() / "model.safetensors")
    apart, moved = (
        sum(float((a[name].double() - b[name].double()).square().sum()) for name in start) ** 0.5
        for a, b in ((theirs, ours), (ours, start))
    )
    assert apart > 0, "bitwise the same: the second process did nothing"
    assert apart < 1e-4 * moved


@pytest.mark.slow
@pytest.mark.faults
def test_a_killed_process_ends_the_run_and_one_process_may_resume_it(tmp_path: Path) -> None:
    write_sets(tmp_path)
    config = tmp_path / "c.yaml"
    config.write_text(to_yaml(settings(tmp_path, max_steps=2000, checkpoint_every=2)))
    run = RunDirectory(tmp_path / "run")
    words = [*PROGRAM, "unlearn", str(config), "--out", str(run.path)]
    leads, other = processes(words, 2, tmp_path / "home")
    until(lambda: run.path.exists() and len(run.checkpoints()) > 0, "a checkpoint", seconds=200)
    other.send_signal(signal.SIGKILL)
    out, err = leads.communicate(timeout=60)
    other.communicate()
    assert other.returncode == -signal.SIGKILL
    assert (leads.returncode, "Traceback" in err) == (2, False), err
    status = run.status()
    assert (status.state, status.resumable) == ("failed", True)
    assert "Another process of this job ended without a word" in status.message
    assert status.message in out
    step = run.status().step

    # Another number of processes goes on with it; SIGTERM to any one process stops all.
    words = [*PROGRAM, "runs", "resume", str(run.path)]
    leads, other = processes(words, 2, tmp_path / "home")
    until(lambda: run.status().step > step and run.status().attempt == 2, "steps", seconds=200)
    other.send_signal(signal.SIGTERM)
    ended = [child.communicate(timeout=60) for child in (leads, other)]
    assert [leads.returncode, other.returncode] == [130, 130], ended
    assert run.status().state == "stopped"
    assert run.checkpoints()[-1].step == run.status().step


@pytest.mark.slow
@pytest.mark.faults
def test_a_bad_loss_ends_all_with_its_sentence(tmp_path: Path) -> None:
    write_sets(tmp_path)
    config = tmp_path / "c.yaml"
    # Weights grow beyond what float32 holds within a few steps.
    bad = settings(tmp_path, learning_rate=0.99, weight_decay=1e30)
    config.write_text(to_yaml(bad))
    run = RunDirectory(tmp_path / "run")
    words = [*PROGRAM, "unlearn", str(config), "--out", str(run.path)]
    children = processes(words, 2, tmp_path / "home")
    (out, err), (silent, said) = (child.communicate(timeout=280) for child in children)
    assert [child.returncode for child in children] == [2, 2], (err, said)
    assert "Traceback" not in err + said
    assert (silent, said) == ("", "")
    status = run.status()
    assert status.state == "failed"
    assert "became" in status.message
    assert status.message in out


PYTHON = """
import json, sys
from trace_engine import read_config, unlearn
from trace_engine.routing import joined
with joined() as workers:
    result = unlearn(read_config(sys.argv[1]), out=sys.argv[2], workers=workers)
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in result.rows]
    sums = [float(t.double().sum()) for t in result.session.trainable.tensors().values()]
    print(json.dumps([rows, sums, result.kept]))
"""


@pytest.mark.slow
@pytest.mark.faults
def test_pythons_call_gives_every_process_the_same_result(tmp_path: Path) -> None:
    write_sets(tmp_path)
    config = tmp_path / "c.yaml"
    keep = {"which": "best", "forget_loss_at_least": 0.1}
    config.write_text(to_yaml(settings(tmp_path, keep=keep, max_steps=4)))
    words = [sys.executable, "-c", PYTHON, str(config), str(tmp_path / "out")]
    children = processes(words, 2, tmp_path / "home")
    (out, err), (other, said) = (child.communicate(timeout=280) for child in children)
    assert [child.returncode for child in children] == [0, 0], (err, said)
    assert json.loads(out) == json.loads(other)
    rows, _, kept = json.loads(out)
    assert len(rows) == 4 + 2
    assert kept["sentence"]
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == len(rows)
    assert "UserWarning" in err
    assert "UserWarning" not in said, "one of them warns"


def test_one_process_gets_back_what_it_gave() -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 2.0)
    gradient = parameter.grad
    together.sum_gradients(ALONE, [parameter])
    assert parameter.grad is gradient
    assert together.total(ALONE, [1.5, 2.5]) == [1.5, 2.5]
    assert together.all_rows(ALONE, gradient) is gradient
    assert together.norm_of_sum(ALONE, [parameter], [gradient]) == pytest.approx(12**0.5)
    assert ALONE.share(lambda: {"a": 1}) == {"a": 1}
    assert (ALONE.any(True), ALONE.any(False)) == (True, False)
