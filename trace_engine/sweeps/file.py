"""A sweep as a file and as options: what page, command and Python hand to one another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trace_engine.config import UnlearnConfig, parse_config
from trace_engine.errors import InputError
from trace_engine.sweeps.plan import Grid
from trace_engine.yamlfile import dump_yaml, parse_yaml, read_yaml


def sweep_yaml(base: UnlearnConfig, grids: Sequence[Grid], name: str = "") -> str:
    """A sweep's file: name, grids and the settings that all points share."""
    data = {
        "name": name,
        "grids": [{key: list(values) for key, values in grid.items()} for grid in grids],
        "base": base.model_dump(mode="json"),
    }
    return dump_yaml(data)


def read_sweep(path: str | Path) -> tuple[UnlearnConfig, list[Grid], str]:
    """What `sweep_yaml` wrote: `sweep(*read_sweep(path))`. Raises InputError when it is no such
    file."""
    path = Path(path)
    data = read_yaml(path)
    if not isinstance(data, dict) or not {"base", "grids"} <= set(data):
        raise InputError(f"{path.name}: a sweep's file has `base` and `grids`.")
    grids = data["grids"]
    if not isinstance(grids, list) or not all(
        isinstance(grid, dict) and all(isinstance(v, list) for v in grid.values()) for grid in grids
    ):
        raise InputError(f"{path.name}: grids must be a list of fields with lists of values.")
    base = parse_config(data["base"], f"{path.name}: base")
    if not isinstance(base, UnlearnConfig):
        raise InputError(f"{path.name}: base must be settings of an unlearning run.")
    return base, grids, str(data.get("name", ""))


def is_sweep_file(path: str | Path) -> bool:
    """Whether the file is a sweep's rather than a run's settings; what is neither is refused
    where it is read."""
    try:
        data = read_yaml(Path(path))
    except InputError:
        return False
    return isinstance(data, dict) and "grids" in data


def parse_values(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`selection.top_k=1,2,4` as a grid; a value is read as YAML, so `null` is none and `[0.1, 20]`
    within a list of lists a pair. Raises InputError for what has no field or no value."""
    grid: dict[str, list[Any]] = {}
    for text in texts:
        field, equals, given = text.partition("=")
        field, given = field.strip(), given.strip()
        if not (field and equals and given):
            raise InputError(f"Expected FIELD=VALUE,VALUE, for example weights.rule=mean,exact; "
                             f"found {text!r}.")  # fmt: skip
        if field in grid:
            raise InputError(f"{field} is given twice; name all its values at once.")
        try:
            listed = given.startswith("[")
            pieces = [given] if listed else given.split(",")
            read = [parse_yaml(piece, field) for piece in pieces]
            values = read[0] if listed else read
        except InputError:
            raise InputError(f"{field}: its values cannot be read ({given[:60]!r}).") from None
        grid[field] = list(values)
    return grid
