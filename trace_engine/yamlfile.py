"""Settings files: YAML that a stranger may have written.

A few lines with aliases can stand for billions of values, and deep brackets for a stack that
overflows; both are refused before anything walks the result. Accepted trade-off: a file over a
megabyte or with more than 100,000 values is refused, and no settings of ours come near.
"""

from pathlib import Path
from typing import Any

import yaml

from trace_engine.errors import InputError
from trace_engine.regular import read_text

MOST_BYTES = 2**20
MOST_VALUES = 100_000


class _Dumper(yaml.SafeDumper):
    """PyYAML's, but that a next-line character (U+0085) is escaped: unquoted or in single quotes it
    is written as a line break, and read back as a space."""


def _text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = '"' if "\x85" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def dump_yaml(data: Any) -> str:
    """Plain values as YAML that reads back as they are, in their order."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def read_yaml(path: Path, what: str = "settings file") -> Any:
    """What a YAML file holds. Raises InputError when it is missing, unreadable, not YAML, or stands
    for more than settings can be.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise InputError(
                f"{path.name} has {path.stat().st_size:,} bytes; a {what} may have {MOST_BYTES:,}."
            )
        return parse_yaml(read_text(path), path.name)
    except FileNotFoundError:
        raise InputError(f"{path.name}: no such {what}.") from None
    except OSError as error:
        reason = error.strerror or "the system gives no reason"
        raise InputError(f"{path}: cannot be read as a {what} ({reason}).") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: not a readable YAML file ({error}).") from None


def parse_yaml(text: str, where: str) -> Any:
    """YAML's values, plain ones only. Raises InputError; `where` begins its sentence."""
    try:
        data = yaml.safe_load(text)
        size = _values(data, {})
    except RecursionError:
        raise InputError(f"{where}: not a readable YAML file (nested too deeply).") from None
    except (yaml.YAMLError, ValueError) as error:  # a date that is none is a ValueError
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: not a readable YAML file ({reason[:500]}).") from None
    if size > MOST_VALUES:
        raise InputError(
            f"{where}: its aliases stand for more than {MOST_VALUES:,} values, too many for "
            "settings. Write out what you mean."
        )
    return data


def _values(data: Any, known: dict[int, float]) -> float:
    """How many values there are with every alias written out; infinite for one inside itself.

    Raises ValueError for text that is no text: an escape can write half of a surrogate pair.
    """
    if isinstance(data, str):
        data.encode()
    if not isinstance(data, dict | list):
        return 1
    if id(data) not in known:
        known[id(data)] = float("inf")
        inside = [*data, *data.values()] if isinstance(data, dict) else data
        known[id(data)] = 1 + sum(_values(each, known) for each in inside)
    return known[id(data)]
