"""From a row of any format to a document: which field holds the text, and what a bad row is told.

The first row decides which fields a set has; every other row must have them, so that a typo in one
row is an error and never a document made of another field.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from trace_engine.errors import InputError
from trace_engine.sets.documents import Document

TEXT_FIELDS: Final = ("text", "content", "document")
PAIRS: Final = (("question", "answer"), ("prompt", "gt"))
"""A prompt field and the field that continues it (TOFU and MUSE `knowmem`; MUSE `verbmem`)."""
UNCHANGED: Final = "Nothing was saved."


@dataclass(frozen=True, slots=True)
class Row:
    """A row as its format gave it, and where it stands."""

    where: str
    """For messages: `forget.jsonl, line 17`."""
    value: Any
    """A mapping of fields, or a string."""


def to_documents(
    rows: Iterable[Row],
    name: str,
    *,
    text_field: str | None = None,
    limit: int | None = None,
    skip_blank: bool = False,
) -> list[Document]:
    """Check every row and compose its document. All or nothing.

    Blank text is refused, or left out with `skip_blank` (columnar sets that a user cannot edit by
    hand). Raises InputError naming the first bad row, and when there is no document at all.
    """
    return kept(list(islice(documents_of(rows, text_field, skip_blank), limit)), name)


def kept(documents: list[Document], name: str) -> list[Document]:
    """All documents of a set, with ids made unique. Raises InputError when there is none."""
    if not documents:
        raise InputError(f"{name} has no documents: every row is empty. {UNCHANGED}")
    return _unique_ids(documents)


def documents_of(
    rows: Iterable[Row], text_field: str | None, skip_blank: bool
) -> Iterator[Document]:
    """The documents of rows as they come; ids may repeat. See `to_documents`."""
    fields: tuple[str, ...] | None = None
    for number, row in enumerate(rows, start=1):
        if isinstance(row.value, str):
            if row.value.strip():
                yield Document(str(number), _valid(row.value, row.where, "the text"))
            elif not skip_blank:
                raise _refused(row.where, "the text is empty. Each row needs non-empty text.")
            continue
        if not isinstance(row.value, Mapping):
            raise _refused(row.where, f"expected an object or a string, found {_shown(row.value)}.")
        if fields is None:
            fields = _fields(row, text_field)
        parts = [_text(row, field) for field in fields]
        if all(part.strip() for part in parts):
            yield _compose(_id(row.value, number), row, fields, parts)
        elif not skip_blank:
            field = next(f for f, part in zip(fields, parts, strict=True) if not part.strip())
            raise _refused(row.where, f'"{field}" is empty. Each row needs non-empty text.')


def _fields(row: Row, text_field: str | None) -> tuple[str, ...]:
    present = row.value
    if text_field is not None:
        if text_field not in present:
            raise _refused(row.where, f'has no field "{text_field}"; it has {_listed(present)}.')
        return (text_field,)
    for field in TEXT_FIELDS:
        if field in present:
            return (field,)
    if "choices" in present and "question" in present:
        raise _refused(
            row.where,
            "this is a multiple-choice question. Give such a file as questions, and documents as "
            "the set.",
        )
    for pair in PAIRS:
        if all(field in present for field in pair):
            return pair
    raise _refused(
        row.where,
        f"no field holds the text. Expected {', '.join(TEXT_FIELDS)}, question and answer, or "
        "prompt and "
        f"gt; found {_listed(present)}. Name the field that holds it.",
    )


def _text(row: Row, field: str) -> str:
    if field not in row.value:
        raise _refused(row.where, f'"{field}" is missing. Each row needs non-empty text.')
    value = row.value[field]
    if not isinstance(value, str):
        raise _refused(row.where, f'"{field}" is {_shown(value)}. Each row needs non-empty text.')
    return _valid(value, row.where, f'"{field}"')


def _compose(id_: str, row: Row, fields: tuple[str, ...], parts: list[str]) -> Document:
    preferred = row.value.get("preferred")
    if not isinstance(preferred, str) or not preferred.strip():
        preferred = None
    else:
        preferred = _valid(preferred, row.where, '"preferred"')
    if len(fields) == 1:
        text, prompt = parts[0], row.value.get("prompt")
        # A set saved by `to_jsonl` keeps its prompts beside the whole text.
        leads = isinstance(prompt, str) and prompt and text.startswith(prompt)
        return Document(id_, text, prompt if leads else None, preferred)
    prompt, continuation = parts
    joint = "" if prompt[-1:].isspace() or continuation[:1].isspace() else " "
    return Document(id_, prompt + joint + continuation, prompt, preferred)


def _id(value: Mapping[str, Any], number: int) -> str:
    given = value.get("id")
    return str(given) if isinstance(given, str | int) and str(given).strip() else str(number)


def _valid(text: str, where: str, what: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _refused(
            where, f"{what} holds half a character (a lone surrogate at {error.start})."
        ) from None
    return text


def _unique_ids(documents: list[Document]) -> list[Document]:
    seen: set[str] = set()
    unique = []
    for document in documents:
        id_, repeat = document.id.encode(errors="replace").decode(), 1
        while id_ in seen:
            repeat += 1
            id_ = f"{document.id}#{repeat}"
        seen.add(id_)
        unique.append(document if id_ == document.id else replace(document, id=id_))
    return unique


def _refused(where: str, what: str) -> InputError:
    return InputError(f"{where}: {what} {UNCHANGED}")


def _listed(fields: Mapping[str, Any]) -> str:
    return ", ".join(repr(str(name))[1:-1][:40] for name in list(fields)[:8]) or "no fields"


def _shown(value: Any) -> str:
    kinds = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    if value is None:
        return "null"
    kind = kinds.get(type(value), type(value).__name__)
    return f"{kind} ({value!r:.40})" if isinstance(value, bool | int | float) else kind
