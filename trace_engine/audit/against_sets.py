"""What a report's folder says of its questions and texts, against the sets themselves: which were
asked, which a training showed, and the hashes by which they stand. Nothing is computed by a model.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trace_engine.audit.again import TRAINING
from trace_engine.audit.answers import answer_files
from trace_engine.audit.case import Case, hash_of
from trace_engine.audit.caused import some_questions
from trace_engine.audit.marks import TOGETHER
from trace_engine.audit.published import asked_numbers, hashes_of, some_of
from trace_engine.audit.report import ANSWERS
from trace_engine.audit.settings import PublishedName
from trace_engine.audit.trained import documents_of, flags_of, left_out, unseen_of


def unlike_hashes(case: Case, items: Mapping[str, Any]) -> list[str]:
    numbers = [number + 1 for number in case.questions]
    if numbers != items["number"]:
        return ["parts/questions.json: other questions were asked than the settings draw"]
    return [
        f"question {number}: its hash is not the report's"
        for number, question, known in zip(
            numbers, case.questions.values(), items["hash"], strict=True
        )
        if hash_of(question) != known
    ]


def unlike_asked(case: Case, parts: Mapping[str, Any]) -> Iterator[str]:
    """Where an attack was asked other forget questions than the settings draw."""
    forget = case.forget_questions()
    some = {place: forget[place] for place in some_questions(case) if place in forget}
    for part in ("rerouted", *TOGETHER, *TRAINING):
        items = parts[part]["items"] if part in parts else {}
        if "number" not in items:
            continue
        asked = some if part == "rerouted" else forget
        numbers = [place + 1 for place in asked]
        if items["number"] != numbers or items["hash"] != [hash_of(q) for q in asked.values()]:
            yield f"parts/{part}.json: other questions were asked than the settings draw"
    if "forbidden" in (routed := parts.get("rerouted", {}).get("items", {})):
        told = parts["rerouted"]["summary"]["forced"]["cells"]
        if [list(cell) for cell in told] != routed["forbidden"]:
            yield "parts/rerouted.json: other experts were forbidden than the summary names"


def unlike_shown(case: Case, parts: Mapping[str, Any]) -> Iterator[str]:
    """Which questions a training is not judged by, as the shown documents say."""
    asked = case.forget_questions()
    for part in TRAINING:
        if part not in parts:
            continue
        items, documents = parts[part]["items"], documents_of(case, part)
        # Older versions judged by right choices alone.
        unseen = unseen_of(asked, documents, clear="clear" in items)
        for name, flags in (("shown", left_out(unseen)), ("told", flags_of(unseen.told))):
            for seed, marks in flags.items() if name in items else ():
                pairs = zip(marks, items[name][seed], strict=True)
                turned = sum(one != other for one, other in pairs)
                if turned:
                    yield f"parts/{part}.json, seed {seed}: {turned} questions are judged otherwise"


def unlike_files(folder: Path, case: Case, parts: Mapping[str, Any]) -> list[str]:
    return [
        f"{ANSWERS}/{name}: does not say what the parts say"
        for name, made in answer_files(case, parts).items()
        if not (folder / ANSWERS / name).is_file()
        or (folder / ANSWERS / name).read_text(encoding="utf-8") != made
    ]


def unlike_items(case: Case, name: PublishedName, items: Mapping[str, Any]) -> list[str]:
    """Where the items of MUSE or TOFU are not those that the settings draw."""
    numbers = asked_numbers(case, name)
    if numbers != items["number"]:
        return [f"parts/{name}.json: other items were asked than the settings draw"]
    asked = some_of(case, name, {piece: [n - 1 for n in of] for piece, of in numbers.items()})
    return [
        f"{name}, {piece} {number}: its hash is not the report's"
        for piece, hashes in hashes_of(name, asked).items()
        for number, now, known in zip(numbers[piece], hashes, items["hash"][piece], strict=True)
        if now != known
    ]
