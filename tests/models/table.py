"""Writes docs/models.md: what TRACE can do with every type of model, as the conformance checks say.

python -m tests.models.table
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
import transformers

from tests.models.conformance import CHECKS, outcome
from tests.support.moe_types import moe_types, tiny_model
from trace_engine.models import unmapped_blocks
from trace_engine.models.families import UNTAPPED

_WHERE = re.compile(r"^\S+: ")
"""The module that a refusal names: a tiny model's, of no use to a reader."""
_VERSION = re.compile(r"transformers (\S+)")
_ROW = re.compile(r"(?:\| |- `)(?!type )(\w+)(?: \||`:).*")
PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def page() -> str:
    """The whole page. A type that fails its check is named as failing, not left out."""
    types = moe_types()
    covered = [name for name in types if name not in UNTAPPED]
    lines = [
        "# Models",
        "",
        "Made by `python -m tests.models.table`, not by hand: a tiny random model of every type",
        f"in transformers {version()} that can have routed experts, each column tested on each of",
        f"its routed layers. {len(covered)} of {len(types)} types are covered. The class is what",
        "TRACE opens; where that is a wrapper of several senses (`…ForConditionalGeneration`),",
        "its language model is mapped.",
        "",
        "- **tap**: what TRACE reports is what happens. Changing an expert's part of any tensor",
        "  changes the tokens that were reported for it and no other, for every expert, each",
        "  reached by some token.",
        "- **drop**: a dropped expert gives bit for bit what a zeroed down-projection gives.",
        "- **reroute**: no masked expert is chosen, every slot is kept, untouched choices stay,",
        "  and where the choice is the largest router logits, the next largest take over.",
        "- **partial**: training selected experts with AdamW and weight decay moves their slice of",
        "  every tensor and leaves every other number as it was, to the bit.",
        "- **LoRA**: adapters on attention and on the experts of every routed layer start as the",
        "  model, train alone, and merge into every tensor of the experts.",
        "",
        f"| type | class | {' | '.join(CHECKS)} | notes |",
        f"|---|---|{'---|' * len(CHECKS)}---|",
    ]
    for name in sorted(covered):
        cells, notes = _cells(name)
        lines.append(f"| {name} | {types[name]} | {' | '.join(cells)} | {'; '.join(notes)} |")
    lines += ["", "Refused by name, in one sentence, before any weight is read:", ""]
    lines += [f"- `{name}`: {UNTAPPED[name]}." for name in sorted(types) if name in UNTAPPED]
    lines += ["- every encoder-decoder (Switch, NLLB-MoE): TRACE works on decoder-only models."]
    return "\n".join(lines) + "\n"


def outdated(committed: str, now: str) -> list[str]:
    """Lines of the page that are not what the checks say now; all of it is compared when it was
    made with this transformers, else the rows of types that both have, of which there must be some.
    """
    made_with = _VERSION.search(committed)
    assert made_with is not None, "the page does not say what it was made with"
    if made_with[1] == version():
        lines = now.splitlines()
        gone = [line for line in committed.splitlines() if line not in lines]
        return gone or ([] if committed == now else ["the page lacks lines, or has another order"])
    before, after = _rows(committed), _rows(now)
    both = before.keys() & after.keys()
    if not both:
        return ["no type of the page is known to this transformers"]
    return sorted(before[name] for name in both if before[name] != after[name])


def _rows(text: str) -> dict[str, str]:
    """Row, or line of a refusal, by type."""
    return {at[1]: at[0] for at in map(_ROW.match, text.splitlines()) if at}


def version() -> str:
    return str(transformers.__version__)


def _cells(name: str) -> tuple[list[str], list[str]]:
    cells, notes = [], []
    for check in CHECKS:
        try:
            why = outcome(name, check)
        except Exception as error:  # whatever a new type does, it gets its row
            cells.append("**fails**")
            notes.append(f"{check}: {type(error).__name__}")
            continue
        partly = check == "reroute" and why
        cells.append("in part" if partly else "no" if why else "yes")
        if why:
            notes.append(f"{check}: {re.sub(_WHERE, '', why).split('. ')[0]}")
    with torch.device("meta"):
        blocks = unmapped_blocks(tiny_model(name))
    notes += [f"also routed, and no row: {why}" for why in dict.fromkeys(blocks.values())]
    return cells, notes


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    PAGE.write_text(page(), encoding="utf-8")
