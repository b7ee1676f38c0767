"""An audit from beginning to end: compute what is missing, judge, write the folder.

The same call on the same folder goes on where an earlier one ended, failed or was killed. A part
that fails is a part of the report, with its sentence; the others are made all the same. It accepts
that a stop loses the part that was in hand.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trace_engine.audit.case import Case
from trace_engine.audit.evidence import WORDS, finding_of
from trace_engine.audit.manifest import NAME as MANIFEST
from trace_engine.audit.parts import COMPUTED, key_of, why_not
from trace_engine.audit.record import Record
from trace_engine.audit.redact import Secrets
from trace_engine.audit.report import assemble, write_report
from trace_engine.audit.rules import Finding
from trace_engine.audit.settings import PARTS, AuditConfig
from trace_engine.errors import InputError, RunError, TraceError
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.runs.stopping import StopRequestedError

Tell = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Audited:
    """A finished audit."""

    folder: Path
    report: dict[str, Any]
    """What report.json holds."""
    finding: Finding
    failed: tuple[str, ...]
    """Parts that could not be made."""


def run_audit(
    config: AuditConfig,
    out: str | Path,
    *,
    base: Path | None = None,
    report: ProgressCallback = ignore_progress,
    tell: Tell = lambda _: None,
) -> Audited:
    """Audit into `out`, a new folder or that of an earlier attempt.

    Leaves `report.html`, `report.json`, `tables/`, `answers/`, `parts/`, `audit.yaml`,
    `events.jsonl` and `manifest.json` with the SHA-256 of them all. `base` is the home, where
    profiles are kept. Raises a TraceError when nothing can be audited, or when other settings would
    throw away parts of a finished report, and lets through what `report` raises to stop.
    """
    import torch

    folder = Path(out).absolute()
    case = Case.read(config, base)
    record = Record.prepare(folder)
    threads = torch.get_num_threads()
    with record.lock():
        _refuse_loss(case, record)
        record.settle(config)
        try:
            if config.threads is not None:
                torch.set_num_threads(config.threads)
            missing = _compute(case, record, report, tell)
            used = torch.get_num_threads()
        finally:
            torch.set_num_threads(threads)
            case.close()
        done: dict[str, dict[str, Any]] = {
            part: found for part in PARTS if (found := record.find(part, None)) is not None
        }
        summaries = {part: found["summary"] for part, found in done.items()}
        finding = finding_of(summaries, missing, config.rules)
        data = assemble(case, record, done, missing, finding, used)
        write_report(case, record, done, data)
    failed = tuple(part for part, why in missing.items() if why.startswith(FAILED))
    return Audited(folder, data, finding, failed)


FAILED = "failed: "


def _refuse_loss(case: Case, record: Record) -> None:
    """A finished report is evidence that somebody may hold the hash of: what it holds is added to,
    and not thrown away for other settings."""
    if not (record.folder / MANIFEST).is_file():
        return
    lost = []
    for part in PARTS:
        try:
            there = record.find(part, None)
        except RunError:
            continue
        if there is not None and (
            why_not(part, case.config) or there.get("key") != key_of(part, case)
        ):
            lost.append(WORDS[part])
    if lost:
        raise InputError(
            f"{record.folder.name}: a finished report is in this folder, and these settings, "
            "models or sets (or this version of TRACE) would throw away what it holds of: "
            f"{'; '.join(lost)}. Name another folder, or remove this one; nothing was changed."
        )


def _compute(case: Case, record: Record, report: ProgressCallback, tell: Tell) -> Mapping[str, str]:
    """Make every part that is not there; returns why each missing one is missing."""
    missing: dict[str, str] = {}
    for part in PARTS:
        key = key_of(part, case)
        reason = why_not(part, case.config)
        if _kept(record, part, None if reason else key, reason) and reason is None:
            tell(f"{WORDS[part]}: already there")
            continue
        if reason is not None:
            missing[part] = reason
            continue
        record.note("began", part=part)
        tell(f"{WORDS[part]} …")
        started = time.monotonic()
        try:
            result = COMPUTED[part](case, report)
        except TraceError as error:
            message = _harmless(str(error), case)
            record.note("failed", part=part, message=message)
            missing[part] = f"{FAILED}{message}"
            tell(f"{WORDS[part]} failed: {error}")
        except (StopRequestedError, KeyboardInterrupt):
            record.note("stopped", part=part)
            raise
        else:
            record.keep(part, key, result, time.monotonic() - started)
    return missing


def _harmless(message: str, case: Case) -> str:
    """An error's sentence, unless it quotes what must not be told."""
    if case.config.reveal or not Secrets(case.texts()).repeated_in(message):
        return message
    return "its sentence is withheld, because it quotes a set or a question."


def _kept(record: Record, part: Any, key: str | None, reason: str | None) -> bool:
    """Whether a finished part of these settings is there; one of others is dropped."""
    try:
        there = record.find(part, None)
    except RunError as error:
        record.drop(part, str(error))
        return False
    if there is None:
        return False
    if reason is not None:
        record.drop(part, reason)
        return False
    if there.get("key") != key:
        record.drop(part, "its settings, models or sets are others now")
        return False
    return True
