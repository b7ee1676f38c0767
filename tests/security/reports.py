"""Audits of which a stranger changed one value and mended the manifest, for `fuzz`.

A seed is one file of a small report, its name in the first line. The report around it is the
bundled one with the parts alone that the file is checked by, so that a check takes a fraction of a
second.
"""

import json
import random
import shutil
from pathlib import Path
from typing import Any, Final

from trace_engine.audit.evidence import finding_of
from trace_engine.audit.experts import selected_experts
from trace_engine.audit.manifest import write_manifest
from trace_engine.audit.report import derived_files
from trace_engine.audit.report_file import JSON
from trace_engine.audit.rules import RulesConfig
from trace_engine.audit.settings import PARTS
from trace_engine.audit.verify import verify_audit
from trace_engine.bundled import AUDIT, resolve_report
from trace_engine.disk import strict
from trace_engine.errors import InputError

SOURCE: Final = resolve_report(AUDIT)
MADE: Final = [part for part in PARTS if (SOURCE / "parts" / f"{part}.json").is_file()]
_LEFT: Final = ("answers", "report.html", "tables", "parts")
_WITH: Final = {
    JSON: ("questions", "routing", "causal", "quantisation", "drift"),
    "parts/causal.json": ("routing", "causal"),
    "parts/routing.json": ("routing", "causal"),
}
ODD: Final[list[Any]] = [
    *(None, [], {}, -1, 0, 1e308, 10**9, 10**30, "x", "", True, [[]], {"a": 1}, [1, 2, 3]),
    *("<img src=x onerror=alert(1)>", "\ud800", "\x1b[2J\n", float(2**53), "1" * 400, [None], 0.5),
]
"""What is put in the place of a value."""


def _parts_of(name: str) -> tuple[str, ...]:
    return _WITH.get(name) or ("questions", name.removeprefix("parts/").removesuffix(".json"))


def _prepare(name: str, folder: Path) -> None:
    """The report in which this file is mutated, agreeing with itself."""
    kept = _parts_of(name)
    shutil.copytree(SOURCE, folder, ignore=lambda *_: _LEFT)
    (folder / "parts").mkdir()
    (folder / "tables").mkdir()
    data = json.loads((SOURCE / JSON).read_text("utf-8"))
    summaries = {}
    for part, row in data["parts"].items():
        if part not in kept:
            row |= {"done": False, "why": "left out", "summary": None, "seconds": None}
            continue
        shutil.copy(SOURCE / "parts" / f"{part}.json", folder / "parts")
        summaries[part] = row["summary"]
    missing = {part: row["why"] for part, row in data["parts"].items() if not row["done"]}
    data["experts"] = selected_experts(summaries)
    rules = RulesConfig.recorded(data["rules"])
    data["finding"] = finding_of(summaries, missing, rules).to_dict()
    text = json.dumps(strict(data), ensure_ascii=False)
    (folder / JSON).write_text(text, encoding="utf-8")
    for file, made in derived_files(json.loads(text)).items():
        (folder / file).write_text(made, encoding="utf-8")


def seeds() -> list[bytes]:
    """Every file of JSON that a report is checked by."""
    names = [JSON, *(f"parts/{part}.json" for part in MADE)]
    return [f"{name}\n".encode() + (SOURCE / name).read_bytes() for name in names]


def mutated(chance: random.Random, known: list[bytes]) -> bytes:
    """A file of which up to three values are gone, or others."""
    name, _, text = chance.choice(known).partition(b"\n")
    data = _of_small(name.decode(), json.loads(text))
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        _change(chance, data)
    return name + b"\n" + json.dumps(data).encode()


def _of_small(name: str, data: Any) -> Any:
    """Of the whole report's parts those alone that are in the small one."""
    if name == JSON:
        data["parts"] = {part: row for part, row in data["parts"].items() if part in _WITH[JSON]}
    return data


def _change(chance: random.Random, data: Any) -> None:
    for _ in range(chance.randint(0, 6)):
        inner = [one for one in _values(data) if isinstance(one, dict | list) and one]
        if not inner:
            break
        data = chance.choice(inner)
    if not data:
        return
    key = chance.choice(list(data)) if isinstance(data, dict) else chance.randrange(len(data))
    if chance.random() < 0.15:
        del data[key]
    else:
        data[key] = chance.choice(ODD)


def _values(data: Any) -> list[Any]:
    return list(data.values()) if isinstance(data, dict) else list(data)


def read(data: bytes, folder: Path) -> object:
    """`verify` of the report with this file in it; what differs is a refusal."""
    name, _, text = data.partition(b"\n")
    report = folder / name.decode().replace("/", "-")
    if not report.exists():
        _prepare(name.decode(), report)
    path = report / name.decode()
    before = path.read_bytes()
    if json.loads(text) != json.loads((SOURCE / name.decode()).read_bytes()):
        path.write_bytes(text)
    write_manifest(report)
    try:
        found = verify_audit(report, seed=1, recompute=False)
    finally:
        path.write_bytes(before)
    assert all(detail for check in found.checks for detail in check.details)
    if found.differs:
        first = next(check for check in found.checks if check.state == "differs")
        raise InputError(f"{first.what}: {first.details[0][:500]}")
    return found
