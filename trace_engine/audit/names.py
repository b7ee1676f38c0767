"""How a report names what it is about: without the folders of a machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from trace_engine.audit.settings import PUBLISHED, AuditConfig
from trace_engine.bundled import is_bundled

ROLE_WORDS: Final[Mapping[str, str]] = {
    "model": "audited model",
    "before": "start model",
    "reference": "reference",
}
TOLD_SINCE: Final = 5
"""The format from which on a training's items say whose right answer it showed, and the finding
says in which experts."""
NAMES: Final[Mapping[str, str]] = {"muse": "MUSE", "tofu": "TOFU"}
BESIDE: Final[Mapping[str, str]] = {
    "reference": "the reference, treated alike",
    "untreated": "the reference, asked plainly",
    "chance": "guessing",
    "itself": "the model as it is",
}
"""What an excess is measured against."""


def shown_source(source: str) -> str:
    """A bundled or hub name as it is; a path as its last part."""
    if is_bundled(source) or source.startswith("hub:"):
        return source
    local = Path(source).is_absolute() or source.startswith((".", "~")) or Path(source).exists()
    return Path(source).name if local else source


def shown_settings(config: AuditConfig) -> dict[str, Any]:
    """All settings, with local paths shortened to names."""
    data = config.model_dump(mode="json")
    for name in ("model", "before", "reference", "forget", "retain", "holdout"):
        if data[name] is not None:
            data[name]["source"] = shown_source(data[name]["source"])
    if data["questions"] is not None:
        data["questions"] = shown_source(data["questions"])
    if data["asking"]["paraphrases"] is not None:
        data["asking"]["paraphrases"] = shown_source(data["asking"]["paraphrases"])
    for name in PUBLISHED:
        if data["published"][name] is not None:
            data["published"][name] = shown_source(data["published"][name])
    data["runs"] = [shown_source(run) for run in data["runs"]]
    return data
