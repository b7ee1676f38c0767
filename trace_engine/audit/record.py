"""The folder of an audit: finished parts, what happened, and who may write.

`parts/NAME.json` is written once a part is done and carries its key; `events.jsonl` is one line for
everything that began, ended, failed, was stopped, or was thrown away. A part that began and neither
ended nor failed was killed, and the report says so. It accepts that two computers with one network
folder are on their own (`flock`).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trace_engine.audit.result import Result
from trace_engine.audit.settings import AuditConfig, PartName, read_audit
from trace_engine.config import to_yaml
from trace_engine.disk import (
    Appender,
    is_leftover,
    read_json,
    read_lines,
    remove_leftovers,
    write_json,
    write_text,
)
from trace_engine.errors import InputError, RunError
from trace_engine.runs.lock import FileLock

CONFIG, EVENTS, LOCK = "audit.yaml", "events.jsonl", ".lock"


@dataclass(frozen=True, slots=True)
class Record:
    """An audit's folder. Whoever holds its lock writes."""

    folder: Path

    @classmethod
    def prepare(cls, folder: Path) -> "Record":
        """A new, an empty, or an audit's folder. Raises InputError for any other."""
        used = folder.exists() and not (folder.is_dir() and _without_settings(folder))
        if used and not (folder / CONFIG).is_file():
            raise InputError(
                f"{folder.name}: expected a new or empty folder, or one of an earlier audit. "
                "Nothing was written; name another one."
            )
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        return cls(folder)

    def lock(self) -> FileLock:
        """Raises LockedError while another process audits into this folder."""
        name = self.folder.name
        return FileLock.take(self.folder / LOCK, f"{name}: another process is at this audit.")

    def settle(self, config: AuditConfig) -> None:
        """Write the settings, and note what differs from those that were there. The caller holds
        the lock."""
        for place in (self.folder, self.folder / "parts"):
            remove_leftovers(place)
        path = self.folder / CONFIG
        if path.is_file():
            before = read_audit(path).model_dump(mode="json")
            now = config.model_dump(mode="json")
            changed = sorted(name for name in now if before.get(name) != now[name])
            if changed:
                self.note("settings changed", fields=changed)
        write_text(path, to_yaml(config))

    def note(self, event: str, **facts: Any) -> None:
        """Add an event with the time in UTC."""
        file = Appender(self.folder / EVENTS)
        try:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            file.append({"time": stamp, "event": event, **facts})
        finally:
            file.close()

    def events(self) -> list[dict[str, Any]]:
        """Everything that happened, oldest first. Raises RunError naming a damaged line."""
        found = read_lines(self.folder / EVENTS)
        for number, event in enumerate(found, start=1):
            told = [event.get("time"), event.get("event"), event.get("part", "")]
            if not all(isinstance(value, str) for value in told):
                raise RunError(f"{EVENTS}, event {number} is damaged: it does not say what it is.")
        return found

    def keep(self, part: PartName, key: str, result: Result, seconds: float) -> None:
        """A part is done."""
        write_json(
            self.folder / "parts" / f"{part}.json",
            {
                "part": part,
                "key": key,
                "seconds": round(seconds, 2),
                "summary": result.summary,
                "items": result.items,
            },
        )
        self.note("done", part=part, seconds=round(seconds, 2))

    def find(self, part: PartName, key: str | None) -> dict[str, Any] | None:
        """A finished part with this key (any key: None); None where there is none. Raises RunError
        when its file is damaged."""
        found: dict[str, Any] | None = read_json(self.folder / "parts" / f"{part}.json")
        if found is not None and not _is_part(found):
            raise RunError(f"parts/{part}.json is damaged: it is not a part of an audit.")
        return found if found is not None and key in (None, found.get("key")) else None

    def drop(self, part: PartName, why: str) -> None:
        """Forget a part that is not of these settings."""
        (self.folder / "parts" / f"{part}.json").unlink()
        self.note("dropped", part=part, why=why)


def _is_part(found: Any) -> bool:
    return isinstance(found, dict) and all(
        isinstance(found.get(name), kind)
        for name, kind in (("summary", dict), ("items", dict), ("seconds", int | float))
    )


def _without_settings(folder: Path) -> bool:
    """Nothing is there but what an attempt that was killed before its settings were there left."""
    names = {path.name for path in folder.iterdir()}
    own = {name for name in names if is_leftover(name) and name.startswith(f".{CONFIG}.")}
    parts = folder / "parts"
    return names - own <= {"parts", LOCK} and not (
        parts.exists() and (not parts.is_dir() or any(parts.iterdir()))
    )


def untold_ends(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The beginnings that no later event of the same part answers: the process was killed."""
    open_: dict[str, Mapping[str, Any]] = {}
    lost = []
    for event in events:
        part = event.get("part")
        if event["event"] == "began" and part is not None:
            if part in open_:
                lost.append(open_[part])
            open_[part] = event
        elif part in open_ and event["event"] in ("done", "failed", "stopped"):
            del open_[part]
    return [*lost, *open_.values()]
