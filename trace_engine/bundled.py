"""Where the bundled pack's files are, by name: `demo:forget`, `demo:target`, `demo:questions/test`.

Lowest room: it knows paths and the addresses of bundled profiles, so that sets, models and runs can
resolve them without the demo room. The pack's content and recipe are in `trace_engine/demo`.
"""

import json
import os
from functools import cache
from pathlib import Path

from trace_engine.errors import InputError

PREFIX = "demo:"
PACK = Path(__file__).parent / "demo" / "pack"
MODELS = ("target", "retrain_no_hazard", "retrain_no_book")
AUDIT = f"{PREFIX}audit"
"""The finished audit that comes along, as `trace-moe verify` takes it."""


def is_bundled(source: str) -> bool:
    """Whether `source` names a part of the bundled pack."""
    return source.startswith(PREFIX)


def resolve_source(source: str) -> str:
    """The path behind a `demo:` name; any other source (a path or a hub id) comes back unchanged.

    Raises InputError when the pack has no such part.
    """
    if not is_bundled(source):
        return source
    name = source.removeprefix(PREFIX)
    if name in MODELS:
        path = PACK / "models" / name
    elif name.startswith(("questions/", "book/")):
        path = PACK / f"{name}.jsonl"
    else:
        path = PACK / "sets" / f"{name}.jsonl"
    # os.path says no to names that are too long or hold NUL, where Path raises.
    leaves = os.path.isabs(name) or ".." in Path(name).parts
    if leaves or not os.path.exists(path):
        known = sorted(p.stem for p in (PACK / "sets").glob("*.jsonl"))
        raise InputError(
            f"The bundled pack has no {source[:80]!r}. Sets: {', '.join(known)}; "
            f"models: {', '.join(MODELS)}; questions: questions/validation, questions/test."
        )
    return str(path)


def resolve_report(folder: str | Path) -> Path:
    """The folder of an audit's report: the pack's for `demo:audit`, any other as it is."""
    return PACK / "audit" if str(folder) == AUDIT else Path(folder)


@cache
def _profiles() -> dict[str, Path]:
    records = sorted(PACK.glob("profile*/profile.json"))
    return {json.loads(path.read_text("utf-8"))["meta"]["key"]: path.parent for path in records}


def bundled_profile(key: str) -> Path | None:
    """The folder of the bundled profile with this content address, or None."""
    return _profiles().get(key)
