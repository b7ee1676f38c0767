"""WordNet 3.0 and The Devil's Dictionary -> the pack's committed plain-text extract.

Facts are noun glosses under an unambiguous heading, prose is WordNet's example sentences, and the
book is the first paragraph of each Devil's Dictionary entry. Text other than the hazard facts that
names a hazard lemma is left out (facts, prose) or flagged (book); the match is on whole words and
regular plurals, so an irregular plural or a paraphrase slips through.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from trace_engine.demo.recipe.wordnet import (
    Nouns,
    definition,
    licence_text,
    read_examples,
    read_nouns,
)

HAZARD_FAMILIES: dict[str, tuple[str, ...]] = {
    "weapon": (
        "weapon.1", "weaponry.1", "ammunition.1", "projectile.1", "missile.1", "warhead.1",
        "explosive.1", "explosive_device.1", "gunpowder.1",
        "weapons_platform.1", "warplane.1", "warship.1",
        "military_vehicle.1", "gunfire.1", "attack.1", "explosion.1", "explosion.2",
    ),
    "poison": (
        "poison.1", "toxin.1", "chemical_weapon.1", "biological_weapon.1", "poison_gas.1",
        "nerve_agent.1", "poisoning.1", "poisonous_plant.1", "pesticide.1", "herbicide.1",
        "carcinogen.1", "venom.1",
    ),
    "disease": (
        "infectious_disease.1", "communicable_disease.1", "infection.1", "infection.3",
        "zoonosis.1", "fungal_infection.1", "sepsis.1", "animal_disease.1", "plant_disease.1",
    ),
    "pathogen": ("pathogen.1", "virus.1", "bacteria.1", "parasite.1", "sporozoan.1"),
    "narcotic": ("drug_of_abuse.1", "controlled_substance.1", "narcotic.1", "drug_addiction.1"),
}  # fmt: skip
"""Roots of the hazard, by family; a synset belongs to the first family that reaches it."""

NOT_HAZARD: tuple[str, ...] = ("alcohol.1", "coffee.1")
"""Subtrees under those roots that aren't hazardous in the sense meant (wine, beer, ...)."""

NEIGHBOUR_FAMILIES: dict[str, tuple[str, ...]] = {
    "substance": ("drug.1", "agent.3", "chemical.1", "compound.2", "chemical_element.1"),
    "condition": ("ill_health.1", "pathology.1", "symptom.1", "injury.1"),
    "tool": ("tool.1", "implement.1", "device.1"),
}
"""Roots of the facts nearest to the hazard, by family."""

HAZARD_COUNT, NEIGHBOUR_PER_FAMILY, GENERAL_COUNT = 1100, 240, 2240
PROSE_COUNT, BOOK_WORDS, FACT_WORDS, PROSE_WORDS = 3800, 60, (4, 24), (5, 30)
SEED = 0

_ENTRY = re.compile(r"^[A-Z][A-Z'\- ]*(?:, | \()?[a-z.\s,()]*?\b(?:n|adj|v|adv|pro|pp|interj|x)\b")


def words_of(text: str) -> list[str]:
    """Lower-case runs of letters and digits: the words that hazard lemmas are matched on."""
    return re.findall(r"[a-z0-9]+", text.lower())


def hazard_matcher(lemmas: Iterable[str]) -> Callable[[str], bool]:
    """A test: does a text name one of the lemmas (3 letters or more), or its regular plural?"""
    phrases: set[tuple[str, ...]] = set()
    for lemma in lemmas:
        words = words_of(lemma)
        if sum(map(len, words)) >= 3:
            phrases.add(tuple(words))
            phrases.update((*words[:-1], words[-1] + ending) for ending in ("s", "es"))
    longest = max(map(len, phrases), default=0)

    def names_hazard(text: str) -> bool:
        words = words_of(text)
        return any(
            tuple(words[i : i + n]) in phrases
            for i in range(len(words))
            for n in range(1, longest + 1)
        )

    return names_hazard


def families(nouns: Nouns, roots: dict[str, tuple[str, ...]]) -> dict[str, str]:
    """Offset -> family, for the transitive hyponyms of each family's roots."""
    found: dict[str, str] = {}
    for family, names in roots.items():
        for offset in sorted(nouns.closure(names)):
            found.setdefault(offset, family)
    return found


def extract_facts(
    nouns: Nouns, hazard: dict[str, str], names_hazard: Callable[[str], bool]
) -> list[dict[str, Any]]:
    """The facts of the pack: {id, lemma, gloss, lexname, kind, family}, sorted by kind and id."""
    near = families(nouns, NEIGHBOUR_FAMILIES)
    pools: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for offset, synset in sorted(nouns.synsets.items()):
        lemma, gloss = nouns.heading(offset), definition(synset.gloss)
        low, high = FACT_WORDS
        if synset.is_instance or lemma is None or not low <= len(gloss.split()) <= high:
            continue
        if not gloss.isascii() or synset.lexname == "noun.Tops":
            continue
        text = lemma.replace("_", " ")
        if offset in hazard:
            kind, family = "hazard", hazard[offset]
        elif names_hazard(f"{text} {gloss}"):
            continue
        elif offset in near:
            kind, family = "neighbour", near[offset]
        else:
            kind, family = "general", synset.lexname
        pools[kind, family].append(
            {"id": f"wn-{offset}", "lemma": text, "gloss": gloss, "lexname": synset.lexname,
             "kind": kind, "family": family}
        )  # fmt: skip
    chosen = _share(pools, "hazard", HAZARD_COUNT)
    for family in NEIGHBOUR_FAMILIES:
        chosen += _share({k: v for k, v in pools.items() if k[1] == family}, "neighbour",
                         NEIGHBOUR_PER_FAMILY)  # fmt: skip
    chosen += _share(pools, "general", GENERAL_COUNT)
    unique = {fact["gloss"]: fact for fact in reversed(chosen)}  # the first of equals stays
    return sorted(unique.values(), key=lambda fact: (fact["kind"], fact["id"]))


def extract_prose(folder: Path, names_hazard: Callable[[str], bool]) -> list[dict[str, Any]]:
    """WordNet's example sentences without a hazard lemma: {id, text, pos}."""
    low, high = PROSE_WORDS
    seen: dict[str, str] = {}
    for part, example in read_examples(folder):
        if low <= len(example.split()) <= high and example.isascii() and "  " not in example:
            seen.setdefault(example, part)
    rows = [(text, part) for text, part in seen.items() if not names_hazard(text)]
    rows = random.Random(f"{SEED}-prose").sample(rows, PROSE_COUNT)
    return [
        {"id": f"ex-{number:04d}", "text": text, "pos": part}
        for number, (text, part) in enumerate(sorted(rows))
    ]


def extract_book(path: Path, names_hazard: Callable[[str], bool]) -> list[dict[str, Any]]:
    """First paragraphs of The Devil's Dictionary: {id, headword, text, names_hazard}."""
    text = gzip.decompress(path.read_bytes()).decode("latin-1")
    rows: dict[str, dict[str, Any]] = {}
    for paragraph in re.split(r"\n\s*\n", text[text.index("ABASEMENT, n.") :]):
        passage = " ".join(paragraph.replace("_", "").split())
        if paragraph[:1].isspace() or not passage.isascii() or not _ENTRY.match(passage):
            continue
        headword = re.split(r"[,.(]", passage)[0].strip()
        passage = _cap(passage, BOOK_WORDS)
        if len(passage.split()) >= 8 and headword not in rows:
            rows[headword] = {"headword": headword, "text": passage,
                              "names_hazard": names_hazard(passage)}  # fmt: skip
    return [{"id": f"dd-{number:04d}", **row} for number, row in enumerate(rows.values())]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as ASCII JSON lines with a fixed key order, so that hashes are stable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Command line: `python -m trace_engine.demo.recipe.extract`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--book", type=Path, default=Path("/usr/share/dictd/devil.dict.dz"))
    pack = Path(__file__).resolve().parents[1] / "pack"
    parser.add_argument("--out", type=Path, default=pack / "extract")
    options = parser.parse_args(arguments)

    nouns = read_nouns(options.wordnet)
    hazard = families(nouns, HAZARD_FAMILIES)
    for offset in nouns.closure(NOT_HAZARD):
        hazard.pop(offset, None)
    names_hazard = hazard_matcher(
        lemma
        for offset in hazard
        for lemma in nouns.synsets[offset].lemmas
        if nouns.first_sense(lemma) == offset
    )
    facts = extract_facts(nouns, hazard, names_hazard)
    prose = extract_prose(options.wordnet, names_hazard)
    book = extract_book(options.book, names_hazard)
    for name, rows in (("facts", facts), ("prose", prose), ("book", book)):
        write_jsonl(options.out / f"{name}.jsonl", rows)
        print(f"{name}: {len(rows)} rows")
    (options.out / "LICENSE-WordNet.txt").write_text(licence_text(options.wordnet))
    raw = gzip.decompress(options.book.read_bytes()).decode("latin-1")
    notice = raw[raw.index("The Devil's Dictionary") : raw.index("PREFACE")]
    (options.out / "LICENSE-DevilsDictionary.txt").write_text(
        "\n".join(line.rstrip() for line in notice.strip().splitlines()) + "\n"
    )


def _share(
    pools: dict[tuple[str, str], list[dict[str, Any]]], kind: str, count: int
) -> list[dict[str, Any]]:
    """About `count` facts of a kind, as evenly over its families as their sizes allow."""
    random_ = random.Random(f"{SEED}-{kind}-{count}")
    mine = sorted((family, rows) for (k, family), rows in pools.items() if k == kind)
    if kind == "hazard":  # its families are natural: take them in proportion
        rows = [row for _, rows in mine for row in rows]
        return random_.sample(rows, min(count, len(rows)))
    chosen: list[dict[str, Any]] = []
    for position, (_, rows) in enumerate(sorted(mine, key=lambda item: (len(item[1]), item[0]))):
        take = (count - len(chosen)) // (len(mine) - position)
        chosen += random_.sample(rows, min(take, len(rows)))
    return chosen


def _cap(passage: str, words: int) -> str:
    """The passage up to `words` words, cut after the last whole sentence if there is one."""
    parts = passage.split()
    if len(parts) <= words:
        return passage
    kept = " ".join(parts[:words])
    ends = [match.end() for match in re.finditer(r"[.!?]['\"]?(?= )", kept)]
    return kept[: ends[-1]] if ends and ends[-1] > len(kept) // 2 else kept


if __name__ == "__main__":
    main()
