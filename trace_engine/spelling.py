"""How sentences write numbers: a no-break space between number and unit, a real minus sign.

Page and command share these, so that a percentage looks the same wherever it is read. Accepted
trade-off: tables, JSON and CSV, which programs read, keep Python's own forms.
"""

import math
from collections.abc import Sequence

NBSP = "\N{NO-BREAK SPACE}"
"""Between a number and its unit, which must not begin the next line."""
NINETY_FIVE = f"95{NBSP}%"
_HYPHEN, _MINUS = "-", "\N{MINUS SIGN}"


def number(value: float, form: str = "g") -> str:
    """A number in one of Python's format forms (`+.1f`, `g`), with a real minus sign, which what
    rounds to zero has none of."""
    text = format(value, form)
    if text.startswith(_HYPHEN) and not text.strip("-0.,"):
        text = text.replace(_HYPHEN, "+" if "+" in form else "", 1)
    return text.replace(_HYPHEN, _MINUS)


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage; what cannot be computed says so instead of showing a number."""
    if not math.isfinite(share):
        return "not computable"
    return f"{number(100 * share, f'z.{digits}f')}{NBSP}%"


def points(difference: float, digits: int = 1) -> str:
    """A difference of shares in percentage points, with its sign."""
    if not math.isfinite(difference):
        return "not computable"
    return f"{number(100 * difference, f'+z.{digits}f')}{NBSP}pp"


def size(memory: float) -> str:
    """Bytes as `13.8 GiB`, `17 MiB`, `205 KiB`: the unit that leaves a number a person can read."""
    if memory >= 0.1 * 2**30:
        return f"{memory / 2**30:.1f}{NBSP}GiB"
    if memory >= 2**20:
        return f"{memory / 2**20:.0f}{NBSP}MiB"
    return f"{memory / 2**10:.0f}{NBSP}KiB"


def spans(numbers: Sequence[int]) -> str:
    """`0 to 3, 5`: runs of following numbers, so that layers without experts show as gaps."""
    parts: list[list[int]] = []
    for one in numbers:
        if parts and one == parts[-1][-1] + 1:
            parts[-1].append(one)
        else:
            parts.append([one])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]} to {p[-1]}" for p in parts)
