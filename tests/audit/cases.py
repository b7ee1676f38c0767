"""A small audit on random models, whose sets and questions use words that appear nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.models import tiny_olmoe
from trace_engine.audit.settings import AuditConfig, parse_audit

SECRET_WORDS = ("quorvex", "brimslate", "ythendol", "zaffrine", "ombrethic")
"""Stand for hazardous words: a report must hold none of them."""
AUDIT = AuditConfig.model_validate({"forget": {"source": "f"}, "retain": {"source": "r"}})
"""Settings without anything behind them, for what is computed from stored answers."""


def write_sets(folder: Path) -> dict[str, str]:
    """Forget set, retain set and questions; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    forget = [
        {"text": f"The {SECRET_WORDS[n % 5]} number {n} is made of salt and {SECRET_WORDS[-1]}."}
        for n in range(20)
    ]
    retain = [{"text": f"In a garden grew tree number {n}, and nobody minded."} for n in range(24)]
    questions = [
        {
            "question": f"What is {SECRET_WORDS[n % 5]} {n}?",
            "choices": [f"{word} {n}" for word in SECRET_WORDS[:4]],
            "answer": n % 4,
            "category": "hazard" if n < 60 else "other",
        }
        for n in range(80)
    ]
    paths = {}
    for name, rows in (("forget", forget), ("retain", retain), ("questions", questions)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        paths[name] = str(path)
    return paths


def write_holdout(folder: Path, *more: str) -> str:
    """Documents like the forget set's that are in neither set, and some more; returns the path."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [f"The {SECRET_WORDS[n % 5]} of garden {n} was seen by nobody." for n in range(12)]
    path = folder / "holdout.jsonl"
    rows = [{"text": text} for text in (*texts, *more)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def small(folder: Path, **changed: Any) -> AuditConfig:
    """An audit of one random model against another; seconds on a CPU."""
    paths = write_sets(folder)
    data: dict[str, Any] = {
        "name": "small",
        "model": {"source": str(tiny_olmoe(seed=0))},
        "before": {"source": str(tiny_olmoe(seed=1))},
        "reference": {"source": str(tiny_olmoe(seed=2))},
        "forget": {"source": paths["forget"]},
        "retain": {"source": paths["retain"]},
        "questions": paths["questions"],
        "max_length": 64,
        "threads": 1,
        "causal": {"experts": 3, "draws": 2, "questions": 6, "permutations": 99},
        "relearning": {"steps": 2, "ask_at": [2], "batch_size": 4, "seeds": [0]},
        "recovery": {"steps": 2, "ask_at": [2], "batch_size": 4},
        "asking": {"templates": ["say, {question}:"], "prefixes": ["Please. "]},
    }
    return parse_audit(data | changed)


def write_published(folder: Path) -> dict[str, str]:
    """MUSE as its authors' script writes it, TOFU as the hub has it; returns their paths."""
    word = SECRET_WORDS
    pairs = [
        {"question": f"Which {word[n % 5]}?", "answer": f"The {word[n % 4]} of {n}"}
        for n in range(4)
    ]
    muse: dict[str, list[Any]] = {
        "verbmem/forget": [
            {"prompt": f"Once the {word[n % 5]} {n}", "gt": f"was salt and {word[-1]} {n}"}
            for n in range(4)
        ],
        "knowmem/forget_qa": pairs,
        "knowmem/forget_qa_icl": pairs[:1],
        "knowmem/retain_qa": pairs[::-1],
        "privleak/forget": [f"{word[n % 5]} is made of {n} grains of salt" for n in range(6)],
        "privleak/holdout": [f"{word[n % 4]} was seen in {n} gardens" for n in range(5)],
    }
    for name, rows in muse.items():
        path = folder / "muse" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows), encoding="utf-8")
    tofu = folder / "tofu"
    tofu.mkdir(parents=True, exist_ok=True)
    for name in ("forget10", "retain", "real_authors", "world_facts"):
        rows = [
            {
                "question": f"Who is {word[n]} of {name}?",
                "answer": f"{word[n]} {n}",
                "paraphrased_answer": f"It is {word[n]} {n}",
                "perturbed_answer": [f"{word[n - 1]} {n}", f"{word[n - 2]} {n + 1}"],
            }
            for n in range(3)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tofu / f"{name}_perturbed.json").write_text(text, encoding="utf-8")
    return {"muse": str(folder / "muse"), "tofu": str(tofu)}
