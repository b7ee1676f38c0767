"""Profiles by content address: the same question about the same bytes is computed once.

`HOME/profiles/<key>` is written beside and renamed into place, so whoever finds it finds all of it.
It accepts that two workers who ask at the same moment both compute, and the second result is
dropped.
"""

from pathlib import Path

from trace_engine.config import ProfileConfig
from trace_engine.disk import place_folder
from trace_engine.models import inspect_model, open_model
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.routing import Profile, mismatch, profile, profile_key
from trace_engine.runs.places import find_profile, subfolder
from trace_engine.sets import DocumentSet, check_pair, load_set


def keep_profile(
    key: str,
    result: Profile,
    base: Path | None = None,
    report: ProgressCallback = ignore_progress,
) -> Path:
    """Put a profile and its map under its key, unless they are there; returns the folder."""
    target = subfolder("profiles", base) / key
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


class ProfileAnswer:
    """A profile with its address and the identity of what it was asked about."""

    def __init__(self, config: ProfileConfig) -> None:
        """Read the sets and the model's hashes. Raises InputError or ModelError before any
        computation."""
        self.config = config
        self.forget: DocumentSet = load_set(config.forget)
        self.retain: DocumentSet = load_set(config.retain)
        check_pair(self.forget, self.retain)
        self.model = inspect_model(config.model)
        self.fingerprints = {
            "model": self.model.fingerprint,
            "forget": self.forget.fingerprint,
            "retain": self.retain.fingerprint,
        }
        self.key = profile_key(config, *self.fingerprints.values())

    def get(self, report: ProgressCallback, base: Path | None = None) -> tuple[Path, bool]:
        """The cached folder, computed first when it is not there; and whether it was."""
        found = find_profile(self.key, base)
        if found is not None:
            return found, True
        opened = open_model(self.config.model)
        result: Profile = profile(opened, self.forget, self.retain, self.config, report)
        return keep_profile(self.key, result, base, report), False
