"""Puts an audit together: report.json from the case and its parts, and all files from report.json.

`report.html` and the tables are functions of report.json alone, so that `verify` can make them
again. Unless the settings reveal them, every file is searched for texts of the forget set and the
questions before it is written.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from trace_engine.audit.answers import answer_files
from trace_engine.audit.case import Case
from trace_engine.audit.evidence import WORDS
from trace_engine.audit.experts import selected_experts
from trace_engine.audit.led import run_entry
from trace_engine.audit.manifest import write_manifest
from trace_engine.audit.names import shown_settings, shown_source
from trace_engine.audit.page import render
from trace_engine.audit.published import asked_numbers
from trace_engine.audit.record import CONFIG, EVENTS, Record, untold_ends
from trace_engine.audit.redact import Secrets, require_silence
from trace_engine.audit.report_file import HTML, JSON
from trace_engine.audit.rules import Finding
from trace_engine.audit.settings import PARTS, PUBLISHED
from trace_engine.audit.surroundings import surroundings
from trace_engine.audit.tables import csv_tables
from trace_engine.config import to_yaml
from trace_engine.disk import strict, write_text
from trace_engine.formats import AUDIT, FIELD
from trace_engine.models import ModelInfo

TABLES, ANSWERS = "tables", "answers"


def assemble(
    case: Case,
    record: Record,
    done: Mapping[str, Mapping[str, Any]],
    missing: Mapping[str, str],
    finding: Finding,
    threads: int,
) -> dict[str, Any]:
    """What report.json holds."""
    events = record.events()
    return {
        FIELD: AUDIT,
        "kind": "audit",
        "title": case.config.name or "Audit of a Mixture-of-Experts model",
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "revealed": case.config.reveal,
        "finding": finding.to_dict(),
        "rules": case.config.rules.model_dump(mode="json"),
        "models": {role: _model(info) for role, info in case.models.items()},
        "sets": _sets(case),
        "parts": {
            part: {
                "done": part in done,
                "what": WORDS[part],
                "why": missing.get(part, ""),
                "seconds": done[part]["seconds"] if part in done else None,
                "summary": done[part]["summary"] if part in done else None,
            }
            for part in PARTS
        },
        "experts": selected_experts({part: found["summary"] for part, found in done.items()}),
        "runs": [run_entry(name, case) for name in case.config.runs],
        "deviations": deviations(events),
        "form": case.config.form.model_dump(mode="json"),
        "settings": shown_settings(case.config),
        "surroundings": surroundings(threads),
        "fingerprints": case.fingerprints(),
    }


def write_report(
    case: Case, record: Record, done: Mapping[str, Mapping[str, Any]], data: dict[str, Any]
) -> str:
    """Write every file; returns the manifest's SHA-256. Raises RunError where a file would repeat
    what is not revealed."""
    folder = record.folder
    text = json.dumps(strict(data), ensure_ascii=False, indent=1) + "\n"
    data = json.loads(text)
    answers = {f"{ANSWERS}/{name}": made for name, made in answer_files(case, done).items()}
    files = derived_files(data) | answers
    if not case.config.reveal:
        kept = {
            f"parts/{part}.json": json.dumps(found, ensure_ascii=False)
            for part, found in done.items()
        }
        events = json.dumps(record.events(), ensure_ascii=False)
        own = to_yaml(case.config)
        require_silence(
            {JSON: text, CONFIG: own, EVENTS: events} | kept | files, Secrets(case.texts())
        )
    for name in (TABLES, ANSWERS):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    write_text(folder / JSON, text)
    for name, made in files.items():
        write_text(folder / name, made)
    return write_manifest(folder)


def derived_files(data: Mapping[str, Any]) -> dict[str, str]:
    """The files that follow from report.json alone, by their path in the folder."""
    tables = {f"{TABLES}/{name}": made for name, made in csv_tables(data).items()}
    return {HTML: render(data)} | tables


def deviations(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """What did not go as a single undisturbed audit would have, in order."""
    said = []
    for event in events:
        time_, kind, part = event["time"], event["event"], event.get("part", "")
        if kind == "settings changed":
            said.append(f"{time_}: the settings changed ({', '.join(event['fields'])}).")
        elif kind == "failed":
            said.append(f"{time_}: {part} failed: {event['message']}")
        elif kind == "stopped":
            said.append(f"{time_}: {part} was stopped by a person.")
        elif kind == "dropped":
            said.append(f"{time_}: the result of {part} was thrown away: {event['why']}.")
    for event in untold_ends(events):
        said.append(f"{event['time']}: {event['part']} began and its process ended without a word.")
    return sorted(said)


def _model(info: ModelInfo) -> dict[str, Any]:
    return info.to_dict() | {"source": shown_source(info.source)}


def _sets(case: Case) -> dict[str, Any]:
    config, licences = case.config, case.config.licences
    named = {"forget": config.forget, "retain": config.retain, "holdout": config.holdout}
    held = {"forget": case.forget, "retain": case.retain, "holdout": case.holdout}
    found: dict[str, Any] = {
        side: {
            "source": shown_source(settings.source),
            "label": settings.label,
            "documents": len(held[side] or ()),
            "fingerprint": case.fingerprints()[side],
            "licence": getattr(licences, side),
        }
        for side, settings in named.items()
        if settings is not None
    }
    if config.questions is not None:
        groups: dict[str, int] = {}
        for question in case.questions.values():
            groups[question.category] = groups.get(question.category, 0) + 1
        found["questions"] = {
            "source": shown_source(config.questions),
            "asked": groups,
            "fingerprint": case.questions_hash,
            "licence": licences.questions,
        }
    found |= {
        name: {
            "source": of.source,
            "asked": {piece: len(numbers) for piece, numbers in asked_numbers(case, name).items()},
            "fingerprint": case.fingerprints()[name],
            "licence": getattr(licences, name),
        }
        for name in PUBLISHED
        if (of := getattr(case, name)) is not None
    }
    found["overlap"] = {
        "count": case.overlap.count,
        "forget_total": case.overlap.forget_total,
        "retain_total": case.overlap.retain_total,
    }
    if case.held_out is not None:
        found["overlap"]["holdout"] = asdict(case.held_out)
    return found
