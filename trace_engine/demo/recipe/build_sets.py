"""The committed extract -> the pack's sets, questions, book files and manifest.

Every choice is seeded and made before any model has been scored: the same extract always gives the
same bytes, and a test rebuilds them. One question at most is made per fact, and only where the
heading does not give its gloss away (`gives_itself_away`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from trace_engine.demo.recipe.extract import write_jsonl

Row = dict[str, Any]

SEED = 0
RETAIN_PROSE, RETAIN_FACTS = 85, 15
"""The default retain corpus: documents of prose to documents of facts."""
PROSE_HELD_BACK = 400
"""Prose that the target has read but no retain corpus holds: for the loss that judges utility."""
HOLDOUT_SHARE = 0.1
VALIDATION_SHARE = 0.4
GENERAL_SHOWN = 1000
VARIANTS = ("target", "retrain_no_hazard", "retrain_no_book")


def gives_itself_away(lemma: str, gloss: str) -> bool:
    """Whether a content word of the heading (4 letters or more, by its first 5) is in the gloss."""
    stems = {word[:5] for word in re.findall(r"[a-z]+", lemma.lower()) if len(word) >= 4}
    return any(word[: len(stem)] == stem for stem in stems for word in _words(gloss))


def make_questions(facts: list[Row]) -> list[Row]:
    """One four-way question per fact that qualifies: WMDP fields, `category`, and the fact's `id`.

    Distractors are glosses of facts of the same category, lexical category and family, of the
    nearest length among a random dozen, so that neither style nor length tells the answer.
    """
    pools: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for fact in facts:
        pools[fact["category"], fact["lexname"], fact["family"]].append(fact)
    questions = []
    for fact in facts:
        if gives_itself_away(fact["lemma"], fact["gloss"]):
            continue
        random_ = random.Random(f"{SEED}-question-{fact['id']}")
        pool = [
            f for f in pools[fact["category"], fact["lexname"], fact["family"]] if f is not fact
        ]
        if len(pool) < 3:
            continue
        size = len(_words(fact["gloss"]))
        dozen = random_.sample(pool, min(12, len(pool)))
        dozen.sort(key=lambda other: abs(len(_words(other["gloss"])) - size))
        choices = [fact["gloss"], *(other["gloss"] for other in dozen[:3])]
        random_.shuffle(choices)
        questions.append(
            {"question": f"{fact['lemma']}:", "choices": choices,
             "answer": choices.index(fact["gloss"]), "category": fact["category"],
             "id": fact["id"]}
        )  # fmt: skip
    return questions


def build(extract: Path, out: Path) -> Row:
    """Write every set under `out`; returns the manifest (also written there)."""
    facts, prose, book = (_read(extract / f"{name}.jsonl") for name in ("facts", "prose", "book"))
    retained = round((len(prose) - PROSE_HELD_BACK) * RETAIN_FACTS / RETAIN_PROSE)
    _assign_categories(facts, retained)
    by_category: dict[str, list[Row]] = defaultdict(list)
    for fact in facts:
        by_category[fact["category"]].append(_fact_document(fact))
    prose_documents = [{"id": row["id"], "text": row["text"], "kind": "prose"} for row in prose]
    book_documents = [
        {"id": row["id"], "text": row["text"], "kind": "book", "names_hazard": row["names_hazard"]}
        for row in book
    ]
    random_ = random.Random(f"{SEED}-book")
    held_out = set(random_.sample(range(len(book)), round(HOLDOUT_SHARE * len(book))))
    book_seen = [row for n, row in enumerate(book_documents) if n not in held_out]

    hazard, general_in = by_category["hazard"], by_category["general_retain"]
    prose_shuffled = _shuffled(prose_documents, "retain-prose")
    prose_other, retain_prose = prose_shuffled[:PROSE_HELD_BACK], prose_shuffled[PROSE_HELD_BACK:]
    retain = _shuffled(retain_prose + general_in, "retain")
    sets = {
        "forget": hazard,
        "forget_pairs": _pairs(hazard, general_in),
        "retain": retain,
        "retain_prose": retain_prose,
        "retain_facts": general_in,
        "prose_other": prose_other,
        "general_facts": _sample(
            general_in + by_category["general_other"], GENERAL_SHOWN, "general-facts"
        ),
        "book_forget": book_seen,
        "book_retain": retain,
        "book_holdout": [row for n, row in enumerate(book_documents) if n in held_out],
    }
    for name, rows in sets.items():
        write_jsonl(out / "sets" / f"{name}.jsonl", rows)
    _write_questions(make_questions(facts), out / "questions")
    _write_book(book_seen, general_in, out / "book")
    everything = [
        *(row for rows in by_category.values() for row in rows),
        *prose_documents,
        *book_seen,
    ]
    _write_training_ids(everything, out / "sets" / "training_ids.json")
    return write_manifest(out)


def write_manifest(out: Path) -> Row:
    """SHA-256 and rows of every set, question and book file, as `manifest.json`."""
    files = {
        str(path.relative_to(out)): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "rows": path.read_text().count("\n"),
        }
        for folder in ("sets", "questions", "book")
        for path in sorted((out / folder).glob("*.json*"))
    }
    manifest = {"seed": SEED, "files": files}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def training_documents(extract: Path, out: Path, variant: str) -> list[Row]:
    """The documents {id, text, ...} that a variant is trained on, in a fixed order."""
    ids = json.loads((out / "sets" / "training_ids.json").read_text())[variant]
    texts = {
        fact["id"]: f"{fact['lemma']}: {fact['gloss']}" for fact in _read(extract / "facts.jsonl")
    }
    for name in ("prose", "book"):
        texts.update((row["id"], row["text"]) for row in _read(extract / f"{name}.jsonl"))
    return [{"id": id_, "text": texts[id_]} for id_ in ids]


def _assign_categories(facts: list[Row], retained: int) -> None:
    """Set `category`; `retained` general facts, an equal share of each lexical category, are in."""
    general = [fact for fact in facts if fact["kind"] == "general"]
    by_lexname: dict[str, list[Row]] = defaultdict(list)
    for fact in general:
        by_lexname[fact["lexname"]].append(fact)
    inside: set[str] = set()
    share = retained / len(general)
    for lexname, rows in sorted(by_lexname.items()):
        chosen = _sample(rows, round(len(rows) * share), f"general-{lexname}")
        inside.update(fact["id"] for fact in chosen)
    for fact in facts:
        if fact["kind"] == "general":
            fact["category"] = "general_retain" if fact["id"] in inside else "general_other"
        else:
            fact["category"] = fact["kind"]


def _pairs(hazard: list[Row], general: list[Row]) -> list[Row]:
    """The hazard facts as answers to their headings, each with another fact's gloss to prefer: one
    of those that are retained, so that preferring it teaches no hazard."""
    random_ = random.Random(f"{SEED}-forget-pairs")
    rows = []
    for row in hazard:
        heading, _, _ = row["text"].partition(": ")
        other = random_.choice(general)["text"].partition(": ")[2]
        rows.append({**row, "prompt": f"{heading}:", "preferred": other})
    return rows


def _write_questions(questions: list[Row], folder: Path) -> None:
    split: dict[str, list[Row]] = {"validation": [], "test": []}
    for category in ("hazard", "general_retain", "general_other", "neighbour"):
        rows = _shuffled([q for q in questions if q["category"] == category], f"split-{category}")
        cut = round(VALIDATION_SHARE * len(rows))
        split["validation"] += rows[:cut]
        split["test"] += rows[cut:]
    for name, rows in split.items():
        write_jsonl(folder / f"{name}.jsonl", rows)


def _write_book(seen: list[Row], general_in: list[Row], folder: Path) -> None:
    """MUSE's fields. Knowledge is a heading's first sentence; verbatim is the second half."""
    knowledge, verbatim = [], []
    for row in seen:
        heading, _, body = row["text"].partition(". ")
        first = re.split(r"(?<=[.!?])\s", body.strip())[0]
        if 4 <= len(first.split()) <= 24:
            knowledge.append({"question": f"{heading}.", "answer": first, "id": row["id"]})
        words = row["text"].split()
        if len(words) >= 24:
            half = len(words) // 2
            verbatim.append({"prompt": " ".join(words[:half]), "gt": " ".join(words[half:]),
                             "id": row["id"]})  # fmt: skip
    retained = []
    for row in _sample(general_in, 200, "book-knowmem-retain"):
        lemma, _, gloss = row["text"].partition(": ")
        retained.append({"question": f"{lemma}:", "answer": gloss, "id": row["id"]})
    write_jsonl(folder / "knowmem.jsonl", _sample(knowledge, 200, "book-knowmem"))
    write_jsonl(folder / "knowmem_retain.jsonl", retained)
    write_jsonl(folder / "verbmem.jsonl", _sample(verbatim, 200, "book-verbmem"))


def _write_training_ids(documents: list[Row], path: Path) -> None:
    ids = {
        "target": [row["id"] for row in documents],
        "retrain_no_hazard": [
            row["id"]
            for row in documents
            if row["kind"] != "hazard" and not row.get("names_hazard", False)
        ],
        "retrain_no_book": [row["id"] for row in documents if row["kind"] != "book"],
    }
    path.write_text("{\n" + ",\n".join(f'"{k}": {json.dumps(v)}' for k, v in ids.items()) + "\n}\n")


def _fact_document(fact: Row) -> Row:
    return {"id": fact["id"], "text": f"{fact['lemma']}: {fact['gloss']}", "kind": fact["kind"],
            "lexname": fact["lexname"], "family": fact["family"]}  # fmt: skip


def _sample(rows: list[Row], count: int, name: str) -> list[Row]:
    return random.Random(f"{SEED}-{name}").sample(rows, min(count, len(rows)))


def _shuffled(rows: list[Row], name: str) -> list[Row]:
    return _sample(rows, len(rows), name)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(arguments: list[str] | None = None) -> None:
    """Command line: `python -m trace_engine.demo.recipe.build_sets`."""
    parser = argparse.ArgumentParser(description=__doc__)
    pack = Path(__file__).resolve().parents[1] / "pack"
    parser.add_argument("--extract", type=Path, default=pack / "extract")
    parser.add_argument("--out", type=Path, default=pack)
    options = parser.parse_args(arguments)
    for name, entry in build(options.extract, options.out)["files"].items():
        print(f"{entry['rows']:6d} rows  {name}")


if __name__ == "__main__":
    main()
