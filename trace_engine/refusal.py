"""Why settings were refused, in a person's words: field, what it must be, what was found.

pydantic's own messages speak of types and validators. It accepts that a kind of error which is not
listed here is told in pydantic's words.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

_BRANCH = re.compile(
    r".*\[.*|.*-.*|bool|call|dict|float|int|list|none|nullable|set|str|tuple", re.DOTALL
)
"""What pydantic puts into a location for a branch of a union; no field is called so."""
_WHOLE, _NUMBER, _TEXT, _SWITCH = "a whole number", "a number", "text", "true or false"
_LIST, _GROUP = "a list", "a group of settings"
_KINDS = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_parsing_size": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "string_type": _TEXT,
    "bool_type": _SWITCH,
    "bool_parsing": _SWITCH,
    "tuple_type": _LIST,
    "list_type": _LIST,
    "dict_type": _GROUP,
    "model_type": _GROUP,
    "model_attributes_type": _GROUP,
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def describe(error: ValidationError, settings: type[BaseModel] | None = None) -> str:
    """One clause per refused field, ended by a full stop; with `settings`, a misspelt field gets
    the nearest name."""
    said: dict[str, str] = {}
    expected: dict[str, list[str]] = {}
    found: dict[str, Any] = {}
    for item in error.errors(include_url=False):
        # The last part of what is too much is a name that somebody wrote, whatever it looks like.
        place = list(item["loc"])
        own = place[-1:] if item["type"] == "extra_forbidden" else []
        path = [
            part
            for part in place[: len(place) - len(own)]
            if not (isinstance(part, str) and _branch(part))
        ] + own
        field = ".".join(f"{part!s:.80}" for part in path)
        kind, context = item["type"], item.get("ctx", {})
        if kind == "extra_forbidden":
            said[field] = f"{field}: there is no such setting{_nearest(path, settings)}"
        elif kind == "missing":
            said[field] = f"{field}: is missing"
        elif kind in ("value_error", "assertion_error"):
            text = str(context.get("error", item["msg"])).rstrip(".")
            said[field] = f"{field}: {text}" if field else text
        else:
            # The branches of a union fail one by one; a person reads them as alternatives.
            expected.setdefault(field, []).append(_must_be(kind, context, str(item["msg"])))
            said[field] = ""
            found[field] = item["input"]
    for field, alternatives in expected.items():
        what = " or ".join(dict.fromkeys(alternatives))
        said[field] = f"{field or 'settings'}: must be {what} (found {found[field]!r:.80})"
    text = "; ".join(said.values())
    return text if text.endswith("?") else f"{text}."


def _branch(part: str) -> bool:
    return _BRANCH.fullmatch(part) is not None


def _must_be(kind: str, context: Mapping[str, Any], message: str) -> str:
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"{words} {context[bound]:g}"
    if kind == "literal_error":
        return str(context["expected"])
    if kind in ("too_long", "too_short"):
        many = "at most" if kind == "too_long" else "at least"
        bound = "max_length" if kind == "too_long" else "min_length"
        return f"{many} {context[bound]} values"
    text = message.removeprefix("Input should be ")
    return _KINDS.get(kind, text[:1].lower() + text[1:])


def _nearest(path: list[int | str], settings: type[BaseModel] | None) -> str:
    """`; did you mean learning_rate?`, where one of the group's fields is like it."""
    for part in path[:-1]:
        field = settings.model_fields.get(str(part)) if settings is not None else None
        inner = field.annotation if field is not None else None
        settings = inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None
    names = list(settings.model_fields) if settings is not None else []
    near = difflib.get_close_matches(str(path[-1]), names, n=1)
    return f"; did you mean {near[0]}?" if near else ""
