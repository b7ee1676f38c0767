"""A sweep as a directory: what was asked, which run answers which point, and the state, derived.

The runs are ordinary runs of the home; this only holds their ids. As with runs, a held lock means a
driver lives, and a free one without a final word means `interrupted`.
"""

import re
import time
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from trace_engine import formats
from trace_engine.config import UnlearnConfig, parse_config
from trace_engine.disk import (
    Stamp,
    free_last_words,
    is_leftover,
    read_json,
    reserve_last_words,
    saying_when_full,
    stamp,
    write_json,
    write_text,
)
from trace_engine.errors import InputError, RunError, TraceError
from trace_engine.runs.lock import FileLock, is_locked
from trace_engine.runs.places import is_run_id, new_run_id, subfolder
from trace_engine.sweeps.file import sweep_yaml
from trace_engine.sweeps.plan import Grid, Plan
from trace_engine.yamlfile import read_yaml

FINAL_STATES = ("done", "stopped", "failed")
_BEFORE_THE_STATUS = frozenset({"sweep.yaml", "points.json", "lock"})
"""What one holds that was killed while it was made."""


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """One point: what it varies, and the run that answers it, once it has begun."""

    number: int
    label: str
    values: dict[str, Any]
    config: UnlearnConfig
    run: str | None


@dataclass(frozen=True, slots=True)
class SweepStatus:
    state: str
    """running, done, stopped, failed or interrupted."""
    message: str
    created: float
    process: dict[str, Any] | None

    @property
    def active(self) -> bool:
        return self.state == "running"

    @property
    def resumable(self) -> bool:
        return self.state in ("stopped", "failed", "interrupted")


@dataclass(frozen=True, slots=True)
class SweepDirectory:
    path: Path
    id: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path).absolute())
        object.__setattr__(self, "id", self.path.name)

    @property
    def home(self) -> Path:
        """The home that it lies in, and its runs with it."""
        return self.path.parent.parent

    # ---- reading -------------------------------------------------------------------------------

    def asked(self) -> dict[str, Any]:
        """Name, grids and base settings. Raises RunError when the file is damaged or absent."""
        path = self.path / "sweep.yaml"
        if stamp(path) is None:
            raise RunError(f"{self.id} is not a sweep: it has no sweep.yaml.")
        try:
            data = read_yaml(path)
            return {"name": str(data["name"]), "grids": data["grids"], "base": data["base"]}
        except (InputError, KeyError, TypeError):
            raise RunError(f"Sweep {self.id} is damaged: sweep.yaml cannot be read.") from None

    @property
    def name(self) -> str:
        return str(self.asked()["name"])

    def base(self) -> UnlearnConfig:
        """The settings that all points share but for what varies."""
        return self._config(self.asked()["base"])

    def points(self) -> list[SweepPoint]:
        """All points in the order they are made. Raises RunError when they cannot be read."""
        try:
            recorded = read_json(self.path / "points.json")["points"]
            found = [
                SweepPoint(
                    number,
                    str(item["label"]),
                    dict(item["values"]),
                    self._config(item["config"]),
                    item["run"],
                )
                for number, item in enumerate(recorded)
            ]
            if not found or not all(isinstance(point.run, str | None) for point in found):
                raise ValueError("no sweep writes that")
            return found
        except (KeyError, TypeError, ValueError, InputError):
            raise RunError(f"Sweep {self.id} is damaged: points.json cannot be read.") from None

    def repeats(self) -> list[tuple[str, str]]:
        """Combinations that were left out because another point is the same run."""
        try:
            found = (read_json(self.path / "points.json") or {}).get("repeats", [])
            return [(str(left_out), str(kept)) for left_out, kept in found]
        except (AttributeError, TypeError, ValueError):
            raise RunError(f"Sweep {self.id} is damaged: points.json cannot be read.") from None

    def status(self) -> SweepStatus:
        """The state now. Raises RunError if there is no sweep."""
        locked = is_locked(self.lock_path)
        recorded = self._recorded()
        state = recorded["state"]
        if state not in FINAL_STATES and not locked and not is_locked(self.lock_path):
            state = "interrupted"
        message = str(recorded.get("message", ""))
        if state == "interrupted":
            message = (
                "The process that starts the points one after another has ended; a point that was "
                "running goes on by itself. Resume to make the rest."
            )
        created = recorded.get("created", 0)
        if isinstance(created, bool) or not isinstance(created, int | float):
            raise RunError(f"Sweep {self.id} is damaged: status.json does not say when it began.")
        return SweepStatus(state, message, created, recorded.get("process"))

    def launch_folder(self) -> Path:
        """Where the settings' relative names start."""
        folder = Path(str(self._recorded().get("folder", "")))
        return folder if folder.is_dir() else Path.cwd()

    def _config(self, data: dict[str, Any]) -> UnlearnConfig:
        config = parse_config(data, self.id, recorded=True)
        if not isinstance(config, UnlearnConfig):
            raise InputError(f"{self.id}: a sweep's settings are those of an unlearning run.")
        return config

    def unmade(self) -> bool:
        """Whether it is only what a process left that was killed while it made the directory, or
        is making now. Raises OSError."""
        names = {path.name for path in self.path.iterdir() if not is_leftover(path.name)}
        if not names:
            return True
        if "lock" not in names or not names <= _BEFORE_THE_STATUS:
            return False
        try:
            return "points.json" not in names or all(p.run is None for p in self.points())
        except RunError:
            return False

    def _recorded(self) -> dict[str, Any]:
        recorded = read_json(self.path / "status.json")
        if not isinstance(recorded, dict) or not isinstance(recorded.get("state"), str):
            raise RunError(f"{self.id} is not a sweep: it has no status.json.")
        formats.require_known(recorded, formats.SWEEP, f"Sweep {self.id}", RunError)
        return recorded

    # ---- writing, under the lock ---------------------------------------------------------------

    @property
    def lock_path(self) -> Path:
        return self.path / "lock"

    def lock(self) -> FileLock:
        """Take the sweep. Raises LockedError when a driver has it."""
        return FileLock.take_over(
            self.lock_path,
            f"Sweep {self.id} is at work already.",
            lambda: self._recorded()["state"] in FINAL_STATES,
        )

    def create(
        self,
        base: UnlearnConfig,
        grids: list[Grid],
        plan: Plan,
        name: str,
        token: str | None,
        owner: str | None = None,
    ) -> FileLock:
        """Make the directory and take its lock before anyone can find it."""
        with saying_when_full(self.path.parent):
            self.path.mkdir(mode=0o700)
        lock = self.lock()
        with lock.handing_over():
            self._make(base, grids, plan, name, token, owner)
        return lock

    def _make(
        self,
        base: UnlearnConfig,
        grids: list[Grid],
        plan: Plan,
        name: str,
        token: str | None,
        owner: str | None,
    ) -> None:
        reserve_last_words(self.path)
        write_text(self.path / "sweep.yaml", sweep_yaml(base, grids, name))
        points = [
            {
                "label": point.label,
                "values": point.values,
                "config": point.config.model_dump(mode="json"),
                "run": None,
            }
            for point in plan.points
        ]
        write_json(self.path / "points.json", {"points": points, "repeats": list(plan.repeats)})
        status = {
            formats.FIELD: formats.SWEEP,
            "state": "running",
            "message": "",
            "created": time.time(),
            "process": None,
        }
        write_json(
            self.path / "status.json",
            status | {"token": token, "owner": owner, "folder": str(Path.cwd())},
        )

    def update(self, **changes: Any) -> None:
        """Change fields of status.json."""
        write_json(self.path / "status.json", self._recorded() | changes)

    def end(self, state: str, message: str) -> None:
        """Its last word, in the room that was kept for it."""
        free_last_words(self.path)
        self.update(state=state, message=message)

    def record_run(self, number: int, run: str) -> None:
        """Say which run answers a point."""
        data = read_json(self.path / "points.json")
        data["points"][number]["run"] = run
        write_json(self.path / "points.json", data)

    @property
    def owner(self) -> str | None:
        """Who asked for it, a label that its runs carry."""
        found = self._recorded().get("owner")
        return None if found is None else str(found)

    @property
    def token(self) -> str | None:
        """Of the press of a button that launched it."""
        found = self._recorded().get("token")
        return None if found is None else str(found)


def new_sweep(home: Path | None = None) -> SweepDirectory:
    """A directory that is not there yet, under a fresh id."""
    return SweepDirectory(subfolder("sweeps", home) / new_run_id())


def open_sweep(sweep_id: str, home: Path | None = None) -> SweepDirectory:
    """The sweep with this id. Raises RunError when there is none, or when it is not an id."""
    path = subfolder("sweeps", home) / sweep_id if is_run_id(sweep_id) else None
    if path is None or path.is_symlink() or not path.is_dir():
        shown = re.sub(r"[^\w.-]", "�", sweep_id)[:60]
        raise RunError(f"There is no sweep {shown}; `trace-moe sweeps list` shows what there is.")
    return SweepDirectory(path)


def list_sweeps(home: Path | None = None) -> list[SweepDirectory]:
    """Every sweep under the home that can be read, newest first; `damaged_sweeps` has the rest."""
    return _survey(home)[0]


def damaged_sweeps(home: Path | None = None) -> dict[str, str]:
    """Ids of the sweeps that cannot be read, newest first, each with the sentence why."""
    return _survey(home)[1]


def _survey(home: Path | None) -> tuple[list[SweepDirectory], dict[str, str]]:
    found, damaged = [], {}
    for path in sorted(subfolder("sweeps", home).iterdir(), reverse=True):
        if not is_run_id(path.name) or path.is_symlink() or not path.is_dir():
            continue
        sweep = SweepDirectory(path)
        try:
            sweep.status()
            _require_readable(sweep, *(stamp(path / n) for n in ("sweep.yaml", "points.json")))
        except (TraceError, OSError) as error:
            if not _goes_or_comes(sweep):
                why = str(error)
                if isinstance(error, OSError):
                    why = f"its folder cannot be read ({error.strerror})."
                # A sentence on one of its files alone does not say whose.
                damaged[sweep.id] = why if sweep.id in why else f"Sweep {sweep.id}: {why}"
            continue
        found.append(sweep)
    return found, damaged


def _goes_or_comes(sweep: SweepDirectory) -> bool:
    """Whether it was deleted while it was read, or is a launch that is under way or was killed."""
    try:
        return sweep.unmade()
    except FileNotFoundError:
        return True
    except OSError:
        return False


@lru_cache(maxsize=1024)
def _require_readable(sweep: SweepDirectory, settings: Stamp | None, points: Stamp | None) -> None:
    """Raise for what `outcomes` could not show. Once for as long as both files stay as they are: a
    page asks at every click, and there may be hundreds of settings to check."""
    sweep.base()
    sweep.points()
    sweep.repeats()
