"""Trackers: the run's rows and no others, each step once, never the run's problem, never asked
for by themselves."""

import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import tracking
from accelerate.tracking import GeneralTracker

from tests.runs import fakes, real
from tests.runs.waiting import until, until_state
from tests.unlearning.cases import tiny_config, without_clock
from trace_engine import trackers
from trace_engine.cli import main
from trace_engine.config import UnlearnConfig, identity_of, to_yaml
from trace_engine.errors import InputError
from trace_engine.runs import RunDirectory, launch, list_runs
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.worker import work
from trace_engine.sweeps import launch_sweep
from trace_engine.unlearning import unlearn
from trace_engine.unlearning.mirror import Mirror, flat, scalars


class Recorder(GeneralTracker):
    """A tracker of this test, told by accelerate's own contract."""

    name = "wandb"
    requires_logging_directory = False
    logged: list[tuple[int, dict[str, Any]]]
    broken_at: int | None = None

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        self.options = options

    def start(self) -> None:
        type(self).made.append(self)

    made: list["Recorder"]

    @property
    def tracker(self) -> "Recorder":
        return self

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        type(self).configured.append(values)

    configured: list[dict[str, Any]]

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        if step == self.broken_at:
            raise ConnectionError("the server is away.\nTry later")
        assert step is not None
        type(self).logged.append((step, values))

    def finish(self) -> None:
        type(self).finished += 1

    finished = 0


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    class Fresh(Recorder):
        logged: list[tuple[int, dict[str, Any]]] = []  # noqa: RUF012
        made: list[Recorder] = []  # noqa: RUF012
        configured: list[dict[str, Any]] = []  # noqa: RUF012

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fresh)
    monkeypatch.setattr(trackers, "installed", lambda name: True)
    return Fresh


def finished_run(folder: Path, config: UnlearnConfig) -> RunDirectory:
    run = RunDirectory(folder)
    with run.create(config):
        status = work(run, StopFlag(), base=folder.parent / "home")
    assert status.state == "done", status.message
    return run


def events(run: Path) -> list[tuple[str, int, float]]:
    """Every scalar in TensorBoard's files, as written: what its reader would merge stays twice."""
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    found = []
    for path in sorted((run / "trackers" / "tensorboard").glob("events*")):
        for event in loading.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                found.append((value.tag, event.step, float(value.tensor.float_val[0])))
    return found


def test_numbers_of_a_row_by_hand() -> None:
    row = {
        "kind": "eval", "step": 3, "attempt": 1, "held_out": True, "picked": {"1": 2},
        "accuracy": {"hazard": {"value": 0.25, "n": 4}, "general": {"value": None, "n": 0}},
        "forget_nll": {"value": 1.5, "low": None}, "retain_nll": {"value": float("nan")},
        "drift": {"layers": [0, 2], "overlap": [1.0, None]},
    }  # fmt: skip
    assert scalars(row) == {
        "eval/accuracy/hazard": 0.25,
        "eval/forget_nll": 1.5,
        "eval/kept experts/layer 0": 1.0,
    }
    assert flat({"a": {"b": 1, "c": None}, "d": [1]}) == {"a.b": 1, "a.c": "None", "d": "[1]"}


def test_tensorboard_holds_the_runs_rows_and_changes_no_bit(tmp_path: Path) -> None:
    real.write_sets(tmp_path)
    config = real.settings(tmp_path, max_steps=4, evaluation={"every": 2})
    plain = finished_run(tmp_path / "plain", config)
    run = finished_run(
        tmp_path / "mirrored", config.model_copy(update={"trackers": ("tensorboard",)})
    )
    assert real.curve(run.rows()) == real.curve(plain.rows())
    assert real.weights(run.path / "model") == real.weights(plain.path / "model")
    assert not (plain.path / "trackers").exists()
    expected = sorted(
        (tag, int(row["step"]), value) for row in run.rows() for tag, value in scalars(row).items()
    )
    found = sorted(events(run.path))
    assert [item[:2] for item in found] == [item[:2] for item in expected]
    assert [item[2] for item in found] == pytest.approx([item[2] for item in expected], rel=1e-6)
    assert ("train/loss", 4) in [item[:2] for item in found]
    assert run.status().notes == plain.status().notes


@pytest.mark.faults
def test_a_killed_run_continues_there_without_a_step_twice(tmp_path: Path) -> None:
    fakes.write_script(tmp_path, pause_at=8)
    run = RunDirectory(tmp_path / "run")
    run.create(fakes.settings(tmp_path, trackers=["tensorboard"])).release()
    process = fakes.start(run, tmp_path / "home")
    until((tmp_path / "paused").exists, "the run to be in its eighth step")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [c.step for c in run.checkpoints()] == [5]
    assert ("train/loss", 7) in [item[:2] for item in events(run.path)]
    fakes.write_script(tmp_path)
    again = fakes.start(run, tmp_path / "home")
    until_state(run, "done")
    again.join()
    assert run.status().attempt == 2
    steps = [step for tag, step, _ in events(run.path) if tag == "train/loss"]
    assert steps == list(range(1, 31))
    assert len(run.rows("train")) == 30


def test_a_tracker_that_fails_is_left_and_the_run_goes_on(
    tmp_path: Path, recorder: type[Recorder]
) -> None:
    real.write_sets(tmp_path)
    config = real.settings(tmp_path, max_steps=4, evaluation={"every": 2}, trackers=["wandb"])
    recorder.broken_at = 3
    run = finished_run(tmp_path / "run", config)
    assert len(run.rows("train")) == 4
    assert {step for step, _ in recorder.logged} == {0, 1, 2}
    [note] = [note for note in run.status().notes if "Tracker" in note]
    assert note.startswith("Tracker wandb refused a row (the server is away).")
    assert note in "\n".join(run.log_tail())
    assert recorder.configured[0]["weights.rule"] == "exact"


def test_one_that_cannot_start_is_a_note_and_the_others_go_on(
    tmp_path: Path, recorder: type[Recorder]
) -> None:
    told: list[str] = []
    config = tiny_config(tmp_path, trackers=["mlflow", "wandb"])

    def refuse(self: Any) -> None:
        raise SystemExit("no login")

    class Refusing(recorder):  # type: ignore[valid-type, misc]
        start = refuse

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "mlflow", Refusing)
        with Mirror(config, tmp_path, "run", tell=told.append) as mirror:
            mirror.log({"kind": "train", "step": 1, "loss": 2.0})
    assert told == [
        "Tracker mlflow could not be started (no login). The run goes on without it; its own files "
        "hold every row."
    ]
    assert recorder.logged == [(1, {"train/loss": 2.0})]
    assert recorder.finished == 1


def test_a_later_attempt_continues_and_a_new_tracker_gets_what_it_missed(
    tmp_path: Path, recorder: type[Recorder]
) -> None:
    rows = [{"kind": "train", "step": step, "loss": float(step)} for step in (1, 2)]
    config = tiny_config(tmp_path, trackers=["wandb"])
    with Mirror(config, tmp_path, "run") as mirror:
        mirror.log(rows[0])
    with Mirror(config, tmp_path, "run", rows[:1]) as mirror:
        mirror.log(rows[0])
        mirror.log(rows[1])
    assert [step for step, _ in recorder.logged] == [1, 2]
    assert len(recorder.configured) == 1
    assert [made.options["resume"] for made in recorder.made] == ["allow", "allow"]
    assert {made.options["id"] for made in recorder.made} == {"run"}

    (tmp_path / "trackers" / "wandb.json").unlink()
    recorder.logged.clear()
    with Mirror(config, tmp_path, "run", rows) as mirror:
        mirror.log({"kind": "train", "step": 3, "loss": 3.0})
    assert [step for step, _ in recorder.logged] == [1, 2, 3]


def test_python_mirrors_beside_its_result(tmp_path: Path, recorder: type[Recorder]) -> None:
    config = tiny_config(tmp_path, trackers=["wandb"], max_steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = unlearn(config, out=tmp_path / "out")
        result.session.close()
        assert [step for step, _ in recorder.logged] == [row["step"] for row in result.rows]
        plain = unlearn(config.model_copy(update={"trackers": ()}))
        plain.session.close()
        assert without_clock(result.rows) == without_clock(plain.rows)
        with pytest.raises(InputError, match="name a folder with out"):
            unlearn(config)


def test_a_mirror_joins_no_processes_and_sets_no_threads(
    tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchrun starts a process: accelerate would wait for the others and take the cores."""
    from accelerate.state import PartialState

    monkeypatch.setattr(PartialState, "_shared_state", {})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    before = torch.get_num_threads()
    told: list[str] = []
    config = tiny_config(tmp_path, trackers=["wandb"])
    with Mirror(config, tmp_path, "run", tell=told.append) as mirror:
        mirror.log({"kind": "train", "step": 1, "loss": 2.0})
    assert told == []
    assert len(recorder.logged) == 1
    assert not torch.distributed.is_initialized()
    assert torch.get_num_threads() == before
    assert {name: os.environ[name] for name in torchrun} == torchrun


def test_trackers_are_no_part_of_what_is_computed(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    mirrored = config.model_copy(update={"trackers": ("tensorboard",)})
    assert identity_of(config) == identity_of(mirrored)
    assert "trackers" not in identity_of(config)
    assert UnlearnConfig.model_validate({"forget": {"source": "a"}, "retain": {"source": "b"}}
                                        ).trackers == ()  # fmt: skip


def test_a_missing_package_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "home"))
    config = tiny_config(tmp_path, trackers=["mlflow"])
    sentence = r"trackers names mlflow, and its package is not installed\. Run `pip install mlflow`"
    with pytest.raises(InputError, match=sentence):
        launch(config)
    with pytest.raises(InputError, match=sentence):
        launch_sweep(config, [{"seed": (1, 2)}])
    with pytest.raises(InputError, match=sentence):
        unlearn(config, out=tmp_path / "out")
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(config.model_copy(update={"trackers": ()})))
    words = ["unlearn", str(file), "--out", str(tmp_path / "run"), "--trackers", "tensorboard"]
    assert main(words) == 2
    assert "pip install 'trace-moe[trackers]'" in capsys.readouterr().err
    assert not list_runs()
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "out").exists()


def test_a_folder_of_a_trackers_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackio").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    if trackers.installed("trackio"):
        pytest.skip("trackio is installed here")
    with pytest.raises(InputError, match="trackio"):
        trackers.check_trackers(["trackio"])
