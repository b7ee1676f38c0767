"""How a card names things: sources without the folders of a machine, a person's words inert."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from trace_engine.bundled import is_bundled
from trace_engine.config import UnlearnConfig

_SPECIAL = set("\\`*_{}[]<>#|!~$&")


def base_model(config: UnlearnConfig) -> str | None:
    """The start model's id on the hub; None for a folder or a bundled model, which have none.

    Of `located` settings: a relative folder looks like an id.
    """
    source = config.model.source
    local = Path(source).is_absolute() or source.startswith((".", "~"))
    return None if is_bundled(source) or local else source


def located(config: UnlearnConfig, folder: Path) -> UnlearnConfig:
    """The settings with a relative model folder made absolute from `folder`, where the run began.

    A name that is no folder there stays as it is: an id on the hub.
    """
    source = config.model.source
    if is_bundled(source) or not (folder / source).exists():
        return config
    model = config.model.model_copy(update={"source": str(folder / source)})
    return config.model_copy(update={"model": model})


def shared_settings(config: UnlearnConfig) -> dict[str, Any]:
    """All settings, with local paths shortened to file names."""
    data = config.model_dump(mode="json")
    if base_model(config) is None:
        data["model"]["source"] = short_source(config.model.source)
    for side in ("forget", "retain"):
        data[side]["source"] = short_source(data[side]["source"])
    questions = data["evaluation"]["questions"]
    data["evaluation"]["questions"] = questions and short_source(questions)
    return data


def short_source(source: str) -> str:
    """A bundled or hub name as it is; a path as its last part."""
    return source if source.startswith(("demo:", "hub:")) else Path(source).name


def plain(text: str) -> str:
    """Text of a person as Markdown that shows it and does nothing else."""
    shown = "".join(f"\\{c}" if c in _SPECIAL else c for c in " ".join(str(text).split()))
    return "".join(c for c in shown if c.isprintable())


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """Lines of a Markdown table."""
    titles = list(header)
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def lines(*told: str) -> str:
    """Lines of text, each ended."""
    return "\n".join(told) + "\n"
