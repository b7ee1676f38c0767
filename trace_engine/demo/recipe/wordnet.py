"""A reader for the noun files of WordNet 3.0, and for the quoted examples of every part of speech.

It knows just what the recipe needs (glosses, hyponyms, sense order) and reads the database files
as they are distributed (`man wndb`), so that the recipe needs no WordNet library.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

LEXNAMES: tuple[str, ...] = tuple(
    f"noun.{name}" if position >= 3 else name
    for position, name in enumerate(
        (
            *("adj.all", "adj.pert", "adv.all", "Tops", "act", "animal", "artifact"),
            *("attribute", "body", "cognition", "communication", "event", "feeling", "food"),
            *("group", "location", "motive", "object", "person", "phenomenon", "plant"),
            *("possession", "process", "quantity", "relation", "shape", "state"),
            *("substance", "time"),
        )
    )
)
"""Lexicographer file names 0..28, in the order of `man lexnames` (the noun part)."""

_QUOTED = re.compile(r'"([^"]*)"?')


@dataclass(frozen=True, slots=True)
class Synset:
    """One noun synset."""

    offset: str
    lexname: str
    lemmas: tuple[str, ...]
    """As written in the file: underscores for spaces, capitals kept."""
    gloss: str
    hyponyms: tuple[str, ...]
    is_instance: bool
    """True for a named person, place or event."""


@dataclass(frozen=True, slots=True)
class Nouns:
    """The noun database: synsets by offset and the sense order of every lemma."""

    synsets: dict[str, Synset]
    senses: dict[str, tuple[str, ...]] = field(repr=False)

    def sense(self, name: str) -> str:
        """Offset of `lemma.number`, e.g. `weapon.1`. Raises KeyError if there is none."""
        lemma, _, number = name.rpartition(".")
        senses = self.senses.get(lemma, ())
        if not number.isdigit() or not 1 <= int(number) <= len(senses):
            raise KeyError(f"WordNet has no noun sense {name!r}.")
        return senses[int(number) - 1]

    def first_sense(self, lemma: str) -> str | None:
        """Offset of the most frequent sense of a lemma, or None."""
        senses = self.senses.get(lemma.lower(), ())
        return senses[0] if senses else None

    def closure(self, names: Iterable[str]) -> set[str]:
        """Offsets of the named senses and of all their transitive hyponyms (not instances)."""
        stack, seen = [self.sense(name) for name in names], set[str]()
        while stack:
            offset = stack.pop()
            if offset not in seen:
                seen.add(offset)
                stack.extend(self.synsets[offset].hyponyms)
        return seen

    def heading(self, offset: str) -> str | None:
        """The first lemma whose first sense is this synset: a heading that is never ambiguous."""
        for lemma in self.synsets[offset].lemmas:
            if self.first_sense(lemma) == offset:
                return lemma
        return None


def read_nouns(folder: Path) -> Nouns:
    """Read `data.noun` and `index.noun` from a WordNet 3.0 folder."""
    synsets: dict[str, Synset] = {}
    for head, gloss in _data_lines(folder / "data.noun"):
        words = int(head[3], 16)
        count = int(head[4 + 2 * words])
        start = 5 + 2 * words
        pointers = [(head[start + 4 * i], head[start + 4 * i + 1]) for i in range(count)]
        synsets[head[0]] = Synset(
            offset=head[0],
            lexname=LEXNAMES[int(head[1])],
            lemmas=tuple(head[4 + 2 * i] for i in range(words)),
            gloss=gloss,
            hyponyms=tuple(target for kind, target in pointers if kind == "~"),
            is_instance=any(kind == "@i" for kind, _ in pointers),
        )
    senses: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for line in (folder / "index.noun").read_text(encoding="latin-1").splitlines():
        if not line.startswith("  "):
            fields = line.split()
            senses[fields[0]] = tuple(fields[-int(fields[2]) :])
    return Nouns(synsets=synsets, senses=dict(senses))


def read_examples(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (part of speech, example) for every quoted example of every synset, in file order."""
    for part in ("noun", "verb", "adj", "adv"):
        for _, gloss in _data_lines(folder / f"data.{part}"):
            for example in _QUOTED.findall(gloss):
                yield part, " ".join(example.split())


def definition(gloss: str) -> str:
    """The definition part of a gloss: quoted examples and trailing separators removed."""
    text = " ".join(_QUOTED.sub("", gloss).split())
    text = re.sub(r"\s*[;:,]?\s*--? ?[A-Z].*$", "", text)  # attribution of a removed quotation
    text = re.sub(r"\s*[;:,](\s*[;:,])*\s*(?=;|$)", "", text)
    return text.strip(" ;:,-")


def licence_text(folder: Path) -> str:
    """The licence at the head of `data.noun`, without its line numbers."""
    lines = (folder / "data.noun").read_text(encoding="latin-1").splitlines()
    head = [line for line in lines[:40] if line.startswith("  ")]
    return "\n".join(re.sub(r"^\s*\d+ ?", "", line).rstrip() for line in head) + "\n"


def _data_lines(path: Path) -> Iterator[tuple[list[str], str]]:
    for line in path.read_text(encoding="latin-1").splitlines():
        if not line.startswith("  "):
            head, _, gloss = line.partition(" | ")
            yield head.split(), gloss.strip()
