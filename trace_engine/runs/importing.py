"""Bringing a run's folder into the home, so that lists, pages and comparisons find it by an id.

The source is only read, and a copy that could not be opened is never listed. It accepts a second
copy of the bytes: what lies outside the home may move or vanish.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trace_engine.disk import place_folder, require_space, write_json
from trace_engine.errors import RunError, TraceError
from trace_engine.regular import WHAT, irregular
from trace_engine.runs import places
from trace_engine.runs.checkpoints import damaged_manifests
from trace_engine.runs.curve import Curve
from trace_engine.runs.directory import RunDirectory

_MIRRORS = "trackers"
"""What trackers keep beside a run, under the id it had: none of its own, and full of links."""


def import_run(source: Path, home: Path | None = None) -> str:
    """Copy an ended run's folder under a new id and return the id.

    What trackers keep there stays behind, and of who asked for it all but the folder that its
    settings' names start in. Raises RunError, and copies nothing, when it is no run, is at work,
    is listed already, holds a symbolic link or a pipe, or is damaged.
    """
    run = RunDirectory(source)
    runs = places.subfolder("runs", home)
    if run.path.resolve().parent == runs.resolve() and places.is_run_id(run.id):
        raise RunError(f"{run.id} is among this home's runs already.")
    files = [path for path in run.path.rglob("*") if run.path / _MIRRORS not in path.parents]
    links = [path for path in (run.path, *files) if path.is_symlink()]
    if links:
        raise RunError(
            f"{run.path.name} holds a symbolic link ({links[0].name}), which may point anywhere. "
            "Copy the run with its files. Nothing was imported."
        )
    pipes = irregular(files)
    if pipes:
        raise RunError(
            f"{run.path.name} holds {WHAT} ({pipes[0].name}), and a run is made of files. Nothing "
            "was imported."
        )
    with _refusing():
        _require_sound(run)
    launched = {name: value for name, value in run.launched().items() if name == "folder"}
    require_space(runs, sum(path.stat().st_size for path in files if path.is_file()))
    target = runs / places.new_run_id()

    def left_behind(folder: str, names: list[str]) -> set[str]:
        ignored = shutil.ignore_patterns("lock", ".*", "stop-*")(folder, names)
        return ignored | ({_MIRRORS, "launch.json"} if Path(folder) == run.path else set())

    def copy(folder: Path) -> None:
        shutil.copytree(run.path, folder, ignore=left_behind)
        write_json(folder / "launch.json", launched)
        # It was resumed while it was being copied: two of its files may be of different steps.
        with _refusing():
            _require_ended(run)

    place_folder(target, copy)
    return target.name


@contextmanager
def _refusing() -> Iterator[None]:
    """Says of every refusal what it came to."""
    try:
        yield
    except TraceError as error:
        raise RunError(f"{error} Nothing was imported.") from None


def _require_ended(run: RunDirectory) -> None:
    status = run.status()
    if status.active:
        raise RunError(f"Run {run.id} is {status.state}. Import it once it has ended.")


def _require_sound(run: RunDirectory) -> None:
    """Read everything that a page reads, and verify what a resume would use."""
    if not (run.path / "config.yaml").is_file():
        raise RunError(f"{run.path.name} is not a run: it has no config.yaml.")
    _require_ended(run)
    curve = Curve(run.path / "metrics.jsonl")
    readers: list[Callable[[], object]] = [run.config, run.rows, curve.look, run.facts]
    readers += [run.progress, run.events, run.log_tail, run.launched]
    for read in readers:
        read()
    for sentence in damaged_manifests(run.path / "checkpoints"):
        raise RunError(sentence)
    for checkpoint in run.checkpoints():
        checkpoint.verify()
