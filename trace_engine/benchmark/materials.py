"""What a table's runs read: retain sets put together, and the questions of one phase.

Both are written into the table's folder from their sources, the same bytes every time. The test
questions are read by `contents(…, "test")` and by nothing else in this room.
"""

import json
import random
from pathlib import Path
from typing import Any

from trace_engine.benchmark.plan import Contents, Phase
from trace_engine.benchmark.settings import BenchConfig
from trace_engine.bundled import resolve_source
from trace_engine.config import ModelConfig, SetConfig
from trace_engine.disk import sha256_file, write_text
from trace_engine.errors import InputError
from trace_engine.models import inspect_model
from trace_engine.runs.preflight import require_one_way
from trace_engine.sets import DocumentSet, Question, load_questions, load_set, to_jsonl
from trace_engine.sets.load import HUB_PREFIX


def contents(config: BenchConfig, folder: Path, phase: Phase) -> Contents:
    """Everything the runs of a phase read, in place. Raises a TraceError when a part is missing."""
    questions = folder / "questions" / f"{phase}.jsonl"
    if phase == "validation":
        _ask(config, config.validation, config.validation_per_group, questions)
    else:
        _ask(config, config.test, config.test_per_group, questions)
    model = inspect_model(ModelConfig.model_validate(config.settings.get("model", {})))
    forget = load_set(SetConfig.model_validate(config.settings.get("forget", {})))
    own = {
        name: load_set(SetConfig.model_validate(config.forget_of(name))).fingerprint
        for name, method in config.methods.items()
        if "forget" in method.settings
    }
    common = {
        "model": model.fingerprint,
        "forget": forget.fingerprint,
        "questions": sha256_file(questions),
    }
    retain, fingerprints = {}, {}
    for name in config.retain:
        retain[name], documents = _retain(config, folder, name)
        fingerprints[name] = common | {"retain": documents.fingerprint}
    return Contents(retain, str(questions), fingerprints, own)


def check_sources(config: BenchConfig) -> None:
    """Refuse a missing questions file, and runs that would not be alike, before anything runs."""
    require_one_way(ModelConfig.model_validate(config.settings.get("model", {})), "table")
    for source in (config.validation, config.test):
        if source.startswith(HUB_PREFIX) or Path(resolve_source(source)).exists():
            continue  # read, and refused where it must be, with the phase that asks it
        raise InputError(f"{source}: no such questions file or folder. Nothing was computed.")


def _retain(config: BenchConfig, folder: Path, name: str) -> tuple[dict[str, Any], DocumentSet]:
    """The `retain` settings of a table's runs, and the set behind them."""
    parts = config.retain[name].parts
    if len(parts) == 1:
        return parts[0].model_dump(mode="json"), load_set(parts[0])
    loaded = [load_set(part) for part in parts]
    together = DocumentSet.of(name, name, [d for part in loaded for d in part.documents])
    path = folder / "sets" / f"{name}.jsonl"
    _write(path, to_jsonl(together.documents).decode())
    settings = SetConfig(source=str(path), label=name)
    return settings.model_dump(mode="json"), load_set(settings)


def _ask(config: BenchConfig, source: str, per_group: int | None, path: Path) -> None:
    """Write the questions to ask: at most `per_group` a group, drawn with the table's seed."""
    questions = load_questions(source)
    groups: dict[str, list[Question]] = {}
    for question in questions:
        groups.setdefault(question.category, []).append(question)
    if config.forget_category not in groups or len(groups) < 2:
        raise InputError(
            f"{source}: a table needs questions of the forget category {config.forget_category!r} "
            f"and of at least one other; the file has {', '.join(sorted(groups))}."
        )
    lines = []
    for name, group in sorted(groups.items()):
        order = random.Random(f"{config.seed}-{name}").sample(group, len(group))
        lines += [
            json.dumps(
                {
                    "question": question.question,
                    "choices": list(question.choices),
                    "answer": question.answer,
                    "category": question.category,
                },
                ensure_ascii=False,
            )
            for question in order[:per_group]
        ]
    _write(path, "\n".join(lines) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def covered(questions: list[Question], documents: DocumentSet) -> dict[str, float]:
    """Per group the share of questions whose fact, the question followed by its answer, is a
    document of the set."""
    texts = {document.text for document in documents.documents}
    found: dict[str, list[bool]] = {}
    for question in questions:
        fact = f"{question.question} {question.choices[question.answer]}"
        found.setdefault(question.category, []).append(fact in texts)
    return {name: sum(inside) / len(inside) for name, inside in found.items()}
