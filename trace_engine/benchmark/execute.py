"""One run of a table: the same loop as every run's, and what of it the table needs.

Right and wrong are kept question by question, so that questions can be resampled later. A run that
diverges, or that has nothing to calibrate, is a result with its sentence: it can never be chosen.
"""

import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

from trace_engine.benchmark.plan import SCHEMA, Trial, content
from trace_engine.benchmark.store import Result
from trace_engine.errors import CalibrationError, NonFiniteLossError
from trace_engine.routing import Profile
from trace_engine.sets import read_questions
from trace_engine.unlearning import UnlearnResult, unlearn
from trace_engine.unlearning.loop import Row


class ProfileFolder:
    """Profiles of a table's start model by their keys, on disk and in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._held: dict[str, Profile] = {}

    def get(self, key: str) -> Profile | None:
        """The profile with this key, or None."""
        path = self._folder / key
        if key not in self._held and path.is_dir():
            self._held[key] = Profile.load(path)
        return self._held.get(key)

    def put(self, key: str, profile: Profile) -> None:
        """Keep a profile; the first process that has one wins, all computed the same."""
        self._held[key] = profile
        self._folder.mkdir(parents=True, exist_ok=True)
        beside = self._folder / f".{key}.{os.getpid()}"
        shutil.rmtree(beside, ignore_errors=True)
        profile.save(beside)
        try:
            beside.rename(self._folder / key)
        except OSError:
            if not (self._folder / key).is_dir():
                raise
            shutil.rmtree(beside)


def execute(trial: Trial, profiles: ProfileFolder) -> Result:
    """Run a trial to its end. Raises a TraceError when the table itself cannot go on."""
    started = time.monotonic()
    rows: list[Row] = []
    result: Result = {
        "schema": SCHEMA,
        "key": trial.key,
        "settings": content(trial.config.model_dump(mode="json")),
        "fingerprints": trial.fingerprints,
        "failed": None,
    }
    try:
        with warnings.catch_warnings():
            # What documents both sets hold is a fact of the table, not of each of its runs.
            warnings.simplefilter("ignore", UserWarning)
            finished = unlearn(trial.config, profiles=profiles, on_row=rows.append)
    except (NonFiniteLossError, CalibrationError) as error:
        result["failed"] = str(error)
    else:
        finished.session.close()
        result |= _decided(finished)
    result["evaluations"] = _evaluations(trial, rows)
    result["seconds"] = time.monotonic() - started
    return result


def _decided(finished: UnlearnResult) -> dict[str, Any]:
    facts = finished.facts
    return {
        "selected": len(facts["selection"]["cells"]),
        "ess_share": facts["weights"]["diagnostics"].get("ess_share"),
        "hardness": facts["weights"]["diagnostics"].get("hardness"),
        "threads": facts["threads"],
        "versions": facts["versions"],
    }


def _evaluations(trial: Trial, rows: list[Row]) -> list[dict[str, Any]]:
    """Per evaluation: step, right (1) or wrong (0) per group in the file's order, drift, time."""
    assert trial.config.evaluation.questions is not None
    questions = read_questions(trial.config.evaluation.questions)
    found, seconds = [], 0.0
    for row in rows:
        if row["kind"] == "train":
            seconds += row["seconds"]
            continue
        right: dict[str, str] = {}
        for number, question in enumerate(questions):
            mark = "1" if row["picked"][str(number)] == question.answer else "0"
            right[question.category] = right.get(question.category, "") + mark
        overlaps = row["drift"]["overlap"]
        found.append(
            {
                "step": row["step"],
                "right": right,
                "overlap": sum(overlaps) / len(overlaps),
                "forget_nll": row["forget_nll"]["value"],
                "retain_nll": row["retain_nll"]["value"],
                "seconds": seconds,
            }
        )
    return found
