"""Every file that outlives a version of TRACE says which format it is written in, and a newer one
is refused in one sentence.

A format's number rises when an older version would misread the file; a field that older versions
may leave out does not raise it. Files from before the number was recorded are of the first format.
"""

from collections.abc import Mapping
from typing import Any

from trace_engine.errors import TraceError

_PICKLED = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
FIELD = "format"
RUN = 1
"""Of a run's directory as a whole; status.json and report/summary.json carry it."""
SWEEP = 1
"""Of a sweep's directory as a whole; status.json carries it."""
TABLE = 1
"""Of the files of `trace-moe bench` together; table.json carries it. A finished run among its
trials, a profile, its map and a checkpoint carry a `schema` of their own."""
CALIBRATION = 1
"""Of the files that `select --out` and `weights --out` write."""

AUDIT = 6
"""Of an audit's folder as a whole; report.json and manifest.json carry it. 1: rules that did not
look at utility, and no training on retained text. 2: no rise beside an excess, and no rule for it;
no marks of utility on the way of a training, and none of other routing. 3: no MUSE and no TOFU.
4: every rise at 95 % by itself, *holds* before suppressed, and nothing on whether a relearning
taught what it showed. 5: the start model was not asked in other words and behind prefixes."""
AUDIT_JOB = 1
"""Of what lies around the report of an audit that a page asked for: status.json and launch.json."""
EXPORT_JOB = 1
"""Of the note beside an export that a page asked for: who asked, or why it failed."""


def is_pickle(name: str) -> bool:
    """Whether a file's name says pickled weights: never read, never passed on."""
    return name.lower().endswith(_PICKLED)


def require_known(
    data: Mapping[str, Any],
    newest: int,
    what: str,
    error: type[TraceError],
    *,
    field: str = FIELD,
) -> None:
    """Raise `error` when `data` is of a format after `newest`, which this version reads."""
    found = data.get(field, 1)
    if isinstance(found, int) and found <= newest:
        return
    raise error(
        f"{what} is of format {str(found)[:20]}, and this version of TRACE reads formats up to "
        f"{newest}: a newer version wrote it. Open it with that one. Nothing was changed."
    )
