"""Profiles by content address: the same question about the same bytes is computed once.

`HOME/profiles/<key>` is written beside and renamed into place, so whoever finds it finds all of it.
Until then its finished windows lie in `HOME/profiles/.work/<key>`, under a lock: who asks meanwhile
waits, and who asks after a death goes on from there. It accepts that a training run, which profiles
inside its own session, may compute the same and has its result dropped.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from trace_engine.config import ModelConfig, ProfileConfig
from trace_engine.disk import place_folder, read_json, remove_leftovers, write_json
from trace_engine.errors import InputError, RunError
from trace_engine.models import inspect_model, open_model, settle
from trace_engine.progress import Progress, ProgressCallback, ignore_progress
from trace_engine.routing import (
    ALONE,
    Profile,
    Workers,
    mismatch,
    profile_in_parts,
    profile_key,
)
from trace_engine.runs.lock import FileLock, LockedError
from trace_engine.runs.places import find_profile, subfolder
from trace_engine.sets import Documents, check_pair, open_set

WORK = ".work"
_LOOK_AGAIN_SECONDS = 0.25
_STALE_SECONDS = 24 * 3600.0
"""Nobody writes at a profile for so long: what is older was left by a kill."""


def keep_profile(
    key: str,
    result: Profile,
    base: Path | None = None,
    report: ProgressCallback = ignore_progress,
) -> Path:
    """Put a profile and its map under its key, unless they are there; returns the folder."""
    target = subfolder("profiles", base) / key
    remove_leftovers(target.parent, older_than=_STALE_SECONDS)
    # A complete one that another worker put there meanwhile says the same; its readers keep it.
    if not target.exists():
        place_folder(target, lambda folder: save_with_map(result, folder, report))
    return target


def save_with_map(
    result: Profile, folder: Path, report: ProgressCallback = ignore_progress
) -> None:
    """Save a profile with its mismatch beside it, so that a page computes nothing."""
    result.save(folder)
    mismatch(result, report=report).save(folder)


class ProfileCache:
    """The home's profiles as a session asks for them; the bundled ones are among them."""

    def __init__(
        self, base: Path | None = None, report: ProgressCallback = ignore_progress
    ) -> None:
        self._base, self._report = base, report

    def get(self, key: str) -> Profile | None:
        """The profile with this key, or None."""
        folder = find_profile(key, self._base)
        return None if folder is None else Profile.load(folder)

    def put(self, key: str, profile: Profile) -> None:
        """Keep a profile, with its map, from now on."""
        keep_profile(key, profile, self._base, self._report)


def _trial_once(model: ModelConfig, path: Path, workers: Workers) -> tuple[ModelConfig, str]:
    """The model's settings with what a trial picked, now or earlier; and how it picked."""
    if workers.leads and _kept_trial(path) is None:
        settled, trial = settle(model, training=False)
        assert trial is not None
        said = {"picked": settled.experts_implementation, "how": trial.sentence(training=False)}
        write_json(path, said | {"trial": trial.to_dict()})
    workers.wait()
    kept = _kept_trial(path)
    if kept is None:
        raise InputError(
            f"{path} is not there in every process: all of them must share one TRACE_HOME. "
            "Nothing was profiled."
        )
    return model.model_copy(update={"experts_implementation": kept["picked"]}), str(kept["how"])


def _kept_trial(path: Path) -> dict[str, Any] | None:
    try:
        kept: dict[str, Any] | None = read_json(path)
    except RunError:  # damaged: it is made again
        return None
    return kept


class ProfileAnswer:
    """A profile with its address and the identity of what it was asked about."""

    def __init__(
        self, config: ProfileConfig, base: Path | None = None, workers: Workers = ALONE
    ) -> None:
        """Read the sets and the model's hashes. Raises InputError or ModelError before any
        computation.

        A trial of the experts that is asked for is made once for a question and kept in the home:
        `config` has what it picked, so that an interrupted profile goes on with the same.
        """
        self.config = config
        self.trial: str | None = None
        """What the trial picked, as a sentence; None where there was none."""
        self.forget: Documents = open_set(config.forget)
        self.retain: Documents = open_set(config.retain)
        self.overlap = check_pair(self.forget, self.retain)
        self.model = inspect_model(config.model)
        self.fingerprints = {
            "model": self.model.fingerprint,
            "forget": self.forget.fingerprint,
            "retain": self.retain.fingerprint,
        }
        self.key = profile_key(config, *self.fingerprints.values())
        if config.model.experts_implementation == "trial":
            path = subfolder("trials", base) / f"{self.key}.json"
            picked, self.trial = _trial_once(config.model, path, workers)
            self.config = config = config.model_copy(update={"model": picked})
            self.model = replace(self.model, experts_implementation=picked.experts_implementation)
            self.key = profile_key(config, *self.fingerprints.values())

    def get(
        self,
        report: ProgressCallback,
        base: Path | None = None,
        workers: Workers = ALONE,
        say: Callable[[str], None] | None = None,
    ) -> tuple[Path, bool]:
        """The cached folder, computed first when it is not there; and whether it was.

        With several workers all of them call this, and all come back once the profile is there.
        `say` hears what became of an interrupted attempt.
        """
        with self._alone(report, base, workers) as found:
            # The leading process decides for all: another job may finish between two looks.
            if workers.agree(found is not None):
                return find_profile(self.key, base) or self._folder(base), True
            opened = open_model(self.config.model)
            work = subfolder("profiles", base) / WORK / self.key
            result = profile_in_parts(
                opened, self.forget, self.retain, self.config, work, workers, report, say
            )
            if result is not None:
                keep_profile(self.key, result, base, report)
            workers.wait()
            return self._folder(base), False

    def _folder(self, base: Path | None) -> Path:
        return subfolder("profiles", base) / self.key

    @contextmanager
    def _alone(
        self, report: ProgressCallback, base: Path | None, workers: Workers
    ) -> Iterator[Path | None]:
        """Hold the key's lock while it is computed; yields the profile where it is there."""
        found = find_profile(self.key, base)
        if found is not None or not workers.leads:
            yield found
            return
        folder = subfolder("profiles", base) / WORK
        folder.mkdir(mode=0o700, exist_ok=True)
        # Beside the folder of the parts, which goes away while the lock is held.
        path = folder / f"{self.key}.lock"
        while True:
            try:
                lock = FileLock.take(path, "Another job profiles the same sets.")
                break
            except LockedError:
                # Reporting also lets whoever wants to stop do so.
                report(Progress("waiting for a job that profiles the same", 0, 1, "", None, None))
                time.sleep(_LOOK_AGAIN_SECONDS)
        with lock:
            yield find_profile(self.key, base)
