"""`experts_implementation: trial`: measured once, recorded, and the same from then on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.runs.real import curve, settings, write_sets
from tests.support.models import tiny_olmoe
from trace_engine import unlearn
from trace_engine.config import ModelConfig, UnlearnConfig, read_config
from trace_engine.errors import ModelError
from trace_engine.models import Trial, open_model, settle, trial
from trace_engine.models.trial import Timing
from trace_engine.progress import Progress, ignore_progress
from trace_engine.routing import Profile, Workers
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.jobs import perform
from trace_engine.runs.profiles import ProfileAnswer
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.worker import work
from trace_engine.unlearning import settle_run

# Fastest forward and fastest forward with backward are two.
TIMES = (
    Timing("eager", 3.0, 2, 9.0, 2),
    Timing("grouped_mm", 4.0, 2, 8.0, 2),
    Timing("batched_mm", 2.0, 2, 10.0, 2),
)
ASKED = ModelConfig(source=str(tiny_olmoe()), device="cpu", experts_implementation="trial")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[ModelConfig]:
    """Trials that were made: the first has the times above, later ones would pick eager."""
    asked: list[ModelConfig] = []

    def measured(config: ModelConfig) -> Trial:
        asked.append(config)
        timings = TIMES if len(asked) == 1 else (replace(TIMES[0], forward_ms=1, training_ms=1),)
        return Trial(timings, "one layer", "grouped_mm", ())

    monkeypatch.setattr(trial, "try_experts", measured)
    return asked


def test_what_is_fastest_at_the_work_is_picked(made: list[ModelConfig]) -> None:
    settled, found = settle(ASKED, training=False)
    assert settled == ASKED.model_copy(update={"experts_implementation": "batched_mm"})
    assert found is not None
    assert found.fastest(training=True) == "grouped_mm"
    assert found.sentence(training=True) == (
        "Experts run as grouped_mm, picked by a trial: eager 9.0 ms, grouped_mm 8.0 ms, batched_mm "
        "10.0 ms forward and backward for one layer."
    )
    plain = ASKED.model_copy(update={"experts_implementation": "auto"})
    assert settle(plain, training=False) == (plain, None)
    assert len(made) == 1


def test_a_real_trial_ends_in_a_way_that_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "SECONDS", 0.01)
    picked = open_model(ASKED).info.experts_implementation
    assert picked in ("eager", "grouped_mm", "batched_mm")


def test_a_profile_measures_once_and_is_addressed_by_what_was_picked(
    tmp_path: Path, made: list[ModelConfig]
) -> None:
    write_sets(tmp_path)
    asked = settings(tmp_path, model=ASKED.model_dump()).profile_config()
    home = tmp_path / "home"
    first = ProfileAnswer(asked, home)
    assert first.config.model.experts_implementation == "batched_mm"
    assert first.model.experts_implementation == "batched_mm"
    assert first.trial is not None
    assert first.trial.startswith("Experts run as batched_mm, picked by a trial")
    named = asked.model_copy(update={"model": first.config.model})
    assert first.key == ProfileAnswer(named, home).key
    folder, was_there = first.get(ignore_progress, home)
    assert not was_there
    meta = Profile.load(folder).meta
    assert meta["settings"]["model"]["experts_implementation"] == "batched_mm"
    assert meta["model"]["experts_implementation"] == "batched_mm"
    # Asked again, after an interruption say, it goes on with what was picked.
    again = ProfileAnswer(asked, home)
    assert (again.key, again.trial, len(made)) == (first.key, first.trial, 1)
    assert again.get(ignore_progress, home) == (folder, True)
    [kept] = (home / "trials").glob("*.json")
    kept.write_text("{")
    assert ProfileAnswer(asked, home).config.model.experts_implementation == "eager"
    assert len(made) == 2


def test_a_run_records_what_was_picked_and_resumes_with_it(
    tmp_path: Path, made: list[ModelConfig]
) -> None:
    write_sets(tmp_path)
    asked = settings(tmp_path, model=ASKED.model_dump(), max_steps=4)
    run = RunDirectory(tmp_path / "run")
    with run.create(asked):
        stop = StopFlag()

        def interrupt(progress: Progress) -> None:
            stop.requested |= progress.phase == "opening the model and the sets"

        status = work(run, stop, job=perform, base=tmp_path / "home", report=interrupt)
        assert (status.state, len(made)) == ("stopped", 1)
        run.begin_attempt()
        status = work(run, StopFlag(), job=perform, base=tmp_path / "home")
    assert status.state == "done", (status, run.log_tail())
    picked = run.config()
    assert picked.model.experts_implementation == "grouped_mm"
    assert len(made) == 1
    assert any("picked by a trial" in note for note in status.notes)
    # The file that is left gives the same bits again, without measuring.
    result = unlearn(read_config_of(run))
    assert json.dumps(curve(result.rows)) == json.dumps(curve(run.rows()))
    assert len(made) == 1


def read_config_of(run: RunDirectory) -> UnlearnConfig:
    config = read_config(run.path / "config.yaml")
    assert isinstance(config, UnlearnConfig)
    return config


def test_python_records_what_was_picked_too(tmp_path: Path, made: list[ModelConfig]) -> None:
    write_sets(tmp_path)
    asked = settings(tmp_path, model=ASKED.model_dump(), max_steps=1)
    result = unlearn(asked, out=tmp_path / "out")
    left = read_config(tmp_path / "out" / "config.yaml")
    assert left.model.experts_implementation == "grouped_mm"
    assert result.session.opened.info.experts_implementation == "grouped_mm"
    assert "picked by a trial" in result.facts["experts_trial"]
    assert len(made) == 1


def test_several_processes_do_not_measure_apart(tmp_path: Path) -> None:
    write_sets(tmp_path)
    with pytest.raises(ModelError, match="is for one process, because several might pick"):
        settle_run(settings(tmp_path, model=ASKED.model_dump()), Workers(0, 2))
