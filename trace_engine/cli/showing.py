"""`trace-moe expert`: one expert's card, and its tokens in context.

Text of the user's own sets may be hazardous and is printed only on request, as the app shows it
only on request; the bundled sets are open. It accepts reading the whole profile for one expert.
"""

import argparse
from typing import Any

from trace_engine.bundled import is_bundled
from trace_engine.cli.calibrating import find
from trace_engine.cli.output import emit_json, plain, print_table
from trace_engine.config import Cell
from trace_engine.routing import Context, ExpertCard, Profile, contexts, expert_card
from trace_engine.spelling import NINETY_FIVE, percent

_HIDDEN = "The words come from your own sets and may be hazardous; --reveal prints them."
_SIDES = ("forget", "retain")


def expert(options: argparse.Namespace) -> int:
    profile = Profile.load(find(options.profile))
    cell = Cell(options.layer, options.expert)
    card = expert_card(profile, cell)
    shown = options.reveal or is_open(profile)
    found = {
        side: contexts(profile, cell, side, n=options.examples, order="random")
        for side in ((options.side,) if options.side else _SIDES)
        if shown and options.examples
    }
    if options.json:
        emit_json(_data(card, found, shown))
        return 0
    _print_card(card)
    if not shown:
        print(_HIDDEN)
        return 0
    for side in (options.side,) if options.side else _SIDES:
        _print_words(card, side, found.get(side))
    return 0


def is_open(profile: Profile) -> bool:
    """Whether both sets come with the project: their text is dictionary-level."""
    sets = profile.meta.get("sets", {})
    return all(is_bundled(str(sets.get(side, {}).get("source", ""))) for side in _SIDES)


def _data(card: ExpertCard, found: dict[str, list[Context]], shown: bool) -> dict[str, Any]:
    data = card.to_dict() | {"text_shown": shown}
    if not shown:
        for name in ("top_forget", "top_retain"):
            data[name] = [token | {"text": None} for token in data[name]]
    data["contexts"] = {
        side: [
            {
                "document_id": item.document_id,
                "tokens": item.tokens,
                "gates": item.gates,
                "routed": item.routed,
                "centre": item.centre,
            }
            for item in items
        ]
        for side, items in found.items()
    }
    return data


def _print_card(card: ExpertCard) -> None:
    print(f"layer {card.cell.layer}, expert {card.cell.expert}")
    rows = [
        {
            "side": side,
            "share": getattr(card, side),
            "tokens": getattr(card, f"tokens_{side}"),
            "of": getattr(card, f"n_{side}"),
            "documents": getattr(card, f"documents_{side}"),
            "mean gate weight": getattr(card, f"gate_{side}"),
        }
        for side in _SIDES
    ]
    print_table(rows, list(rows[0]))
    print(
        f"gap {card.gap:+.4f} ({NINETY_FIVE} interval {card.gap_low:+.4f} to "
        f"{card.gap_high:+.4f}); an even router would give every expert {percent(card.uniform)}"
    )
    if card.coactivated:
        print("\nUsed together with (share of this expert's tokens):")
        others = [
            {"expert": other.expert, "forget": other.forget, "retain": other.retain}
            for other in card.coactivated[:5]
        ]
        print_table(others, ["expert", "forget", "retain"])


def _print_words(card: ExpertCard, side: str, found: list[Context] | None) -> None:
    print(f"\n{side} tokens beyond expectation:")
    columns = ["text", "routed", "total", "expected", "z"]
    rows = [
        {name: getattr(token, name) for name in columns} | {"text": _visible(token.text)}
        for token in getattr(card, f"top_{side}")
    ]
    print_table(rows, columns)
    if found is None:
        return
    print(f"\n{side} tokens in context, drawn at random ([routed here], [[the token drawn]]):")
    for item in found or ():
        print("  " + _marked(item))
    if not found:
        print("  (no sampled token of this side goes here)")


def _marked(item: Context) -> str:
    parts = []
    for place, (text, routed) in enumerate(zip(item.tokens, item.routed, strict=True)):
        inner = text.lstrip(" ")
        gap = text[: len(text) - len(inner)]
        inner = _line(inner)
        if place == item.centre:
            inner = f"[[{inner}]]"
        elif routed:
            inner = f"[{inner}]"
        parts.append(gap + inner)
    return "".join(parts).strip()


def _line(text: str) -> str:
    return plain(text.replace("\n", "⏎"))


def _visible(text: str) -> str:
    return _line(text.replace(" ", "␣"))
