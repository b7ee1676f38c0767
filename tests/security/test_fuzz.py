"""A stranger's bytes are read or refused in a sentence: no other error, no hang, no file elsewhere,
and no memory out of proportion.

TRACE_FUZZ sets how many mutations; the ordinary tests take 4,000, the slow ones 100,000.
"""

import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import pytest
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import AppTest

from app.navigation import GROUPS
from tests.app import conftest as app_fixtures
from tests.app.conftest import KEY, ROOT
from tests.app.stored import eval_row, open_profile_of, train_row, write_run
from tests.security import fuzz
from trace_engine.config import ProfileConfig, SetConfig, UnlearnConfig, read_config
from trace_engine.errors import InputError
from trace_engine.runs.places import subfolder

saved_profile, trace_home = app_fixtures.saved_profile, app_fixtures.trace_home
bundled = app_fixtures.bundled
PAGES = [name for entries in GROUPS.values() for name, _, _ in entries]

FEW = int(os.environ.get("TRACE_FUZZ", "4000"))
MANY = int(os.environ.get("TRACE_FUZZ", "100000"))
SECONDS = 10
MEMORY = 300 * 2**20
"""By how much one input may raise the process's peak of memory, in bytes: inputs have kilobytes."""
_written: list[str] | None = None
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


_NAMES = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
}
"""Audit events that change names in folders: which arguments are a path, and the open folder that a
relative one starts in. What a symbolic link says is no change; where it is made is."""
_CONTENTS = ("os.truncate", "os.chmod")


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _written is None:
        return
    opened = event == "open" and isinstance(arguments[0], str | bytes) and arguments[2] & _WRITES
    # Resolved now: where a link leads, or what a descriptor stands for, may change later.
    if opened or event in _CONTENTS:
        path = arguments[0]
        path = f"/proc/self/fd/{path}" if isinstance(path, int) else os.fsdecode(path)
        _written.append(os.path.realpath(path))
    for place, start in _NAMES.get(event, ()):
        folder, name = os.path.split(os.fsdecode(arguments[place]))
        if arguments[start] >= 0:
            folder = os.path.join(f"/proc/self/fd/{arguments[start]}", folder)
        _written.append(os.path.join(os.path.realpath(folder), name))


sys.addaudithook(_watch)  # cannot be taken away again, and does nothing between tests


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Fails when anything inside writes outside the folder."""
    global _written
    _written = []
    try:
        yield
        strays = [path for path in _written if not Path(path).is_relative_to(folder.resolve())]
    finally:
        _written = None
    assert strays == []


class LateError(BaseException):
    """No `Exception`, which a reader may catch and call a refusal."""


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Fails what takes longer than `seconds`."""

    def late(number: int, frame: FrameType | None) -> None:
        raise LateError(f"no answer in {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _forgetting() -> int | None:
    """An open file that takes back the process's peak; None where the kernel has none."""
    try:
        return os.open("/proc/self/clear_refs", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None


_FORGET = _forgetting()  # opened here, because `watched` would take it for a stray


def _peak() -> int:
    """In bytes, since it was last taken back. Without that it is of the process's whole life, and
    what stays below what came before is not seen."""
    if _FORGET is None:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@contextmanager
def in_memory() -> Iterator[None]:
    """Fails what raises the process's peak of memory by more than `MEMORY`."""
    if _FORGET is not None:
        os.write(_FORGET, b"5")
    before = _peak()
    yield
    grown = _peak() - before
    assert grown <= MEMORY, f"it took {grown / 2**20:.0f} MiB"


def assault(name: str, number: int, folder: Path, seed: int) -> dict[str, int]:
    """Feed a reader with mutations; how many it read and refused."""
    target, chance = fuzz.TARGETS[name], random.Random(f"{seed} {name}")
    told = {"read": 0, "refused": 0}
    for seed_input in target.seeds:
        with in_memory(), in_time():
            assert fuzz.read_or_refuse(target, seed_input, folder) == "read"
    with watched(folder):
        for turn in range(number):
            data = target.mutate(chance, target.seeds)
            try:
                with in_memory(), in_time():
                    answer = fuzz.read_or_refuse(target, data, folder)
            except BaseException as error:
                raise AssertionError(f"{name}, mutation {turn}: {data[:2000]!r}") from error
            told["read" if answer == "read" else "refused"] += 1
            assert len(answer) < 2000, f"{name}, mutation {turn}: {answer[:300]}"
            assert "Traceback" not in answer
    return told


STRAYS: dict[str, Callable[[Path, Path], object]] = {
    "written": lambda inside, outside: (outside / "f").write_bytes(b"x"),
    "made": lambda inside, outside: (outside / "new").mkdir(),
    "moved out": lambda inside, outside: (inside / "f").rename(outside / "g"),
    "moved in": lambda inside, outside: (outside / "f").rename(inside / "g"),
    "linked": lambda inside, outside: os.link(inside / "f", outside / "g"),
    "link made": lambda inside, outside: (outside / "g").symlink_to(inside / "f"),
    "removed": lambda inside, outside: (outside / "f").unlink(),
    "folder removed": lambda inside, outside: (outside / "d").rmdir(),
    "tree removed": lambda inside, outside: shutil.rmtree(outside / "d"),
    "cut": lambda inside, outside: os.truncate(outside / "f", 0),
    "mode changed": lambda inside, outside: (outside / "f").chmod(0o600),
    "through a link": lambda inside, outside: (inside / "out" / "g").write_bytes(b"x"),
}


@pytest.mark.parametrize("what", STRAYS)
def test_the_watcher_sees_what_happens_outside(what: str, tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "outside"
    for folder in (inside, outside):
        (folder / "d").mkdir(parents=True)
        (folder / "f").write_bytes(b"f")
    (inside / "out").symlink_to(outside)
    with pytest.raises(AssertionError, match="outside"), watched(inside):
        STRAYS[what](inside, outside)
    with watched(tmp_path):
        STRAYS["tree removed"](outside, inside)


def _catches_everything() -> str:
    try:
        time.sleep(5)
    except Exception:
        return "refused"
    return "read"


def test_a_hang_is_no_refusal_even_where_all_is_caught() -> None:
    with pytest.raises(LateError), in_time(0.05):
        _catches_everything()


@pytest.mark.slow
def test_a_bomb_is_seen_by_its_memory_though_it_was_freed() -> None:
    # Where the peak cannot be taken back: beyond it.
    room = 2 * MEMORY + (_peak() if _FORGET is None else 0)
    bomb, small = (zlib.compress(bytes(size)) for size in (room, MEMORY // 4))
    for _ in range(1 if _FORGET is None else 2):
        with pytest.raises(AssertionError, match=r"it took \d+ MiB"), in_memory():
            zlib.decompress(bomb)
    with in_memory():
        zlib.decompress(small)


@pytest.mark.fault_row(29)
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_mutated_input_is_read_or_refused_in_a_sentence(name: str, tmp_path: Path) -> None:
    told = assault(name, round(FEW * fuzz.TARGETS[name].share), tmp_path, seed=1)
    assert told["refused"] > 0, told


@pytest.mark.fault_row(29)
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_a_hundred_thousand_mutations(name: str, tmp_path: Path) -> None:
    told = assault(name, round(MANY * fuzz.TARGETS[name].share), tmp_path, seed=2)
    print(f"{name}: {told}")
    assert told["refused"] > 0, told


def test_a_bomb_of_aliases_is_refused_in_time(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)]
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text("\n".join([*lines, "kind: unlearn", "name: *a19", "forget: *a19"]))
    with in_time(), pytest.raises(InputError) as refused:
        read_config(bomb)
    assert "aliases stand for more than 100,000 values" in str(refused.value)


def test_few_aliases_are_read(tmp_path: Path) -> None:
    plain = tmp_path / "run.yaml"
    plain.write_text("forget: &s {source: f.txt, limit: 3}\nretain: {<<: *s, source: r.txt}\n")
    config = read_config(plain)
    assert isinstance(config, UnlearnConfig)
    assert (config.retain.source, config.retain.limit) == ("r.txt", 3)


@pytest.mark.parametrize(
    "text", ["[" * 5000, "- " * 5000, "{a: " * 3000, "&a [*a]", "a: &a {b: *a}"]
)
def test_depth_and_circles_are_refused(tmp_path: Path, text: str) -> None:
    deep = tmp_path / "deep.yaml"
    deep.write_text(text)
    with in_time(), pytest.raises(InputError) as refused:
        read_config(deep)
    assert len(str(refused.value)) < 600


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(InputError, match=r"huge\.yaml has 1,048,577 bytes"):
        read_config(huge)


def _every_value_of_the_address() -> None:
    import streamlit as st

    from app import state

    state.begin("routing_map")
    state.current_profile()
    state.cell()
    state.selection_config()
    state.weights_config()
    for read in (state.run_id, state.sweep_id, state.job_id):
        read()
    number = state.bound("number", 3, read=int)
    st.text(f"{number} {state.bound('choice', 'a', ['a', 'b'])}")


ADDRESS = {
    "profile": "0123456789abcdef" * 4,
    "layer": "2",
    "expert": "13",
    "sel": '{"top_k": 2, "add": [[0, 1]]}',
    "weights": '{"rule": "exact", "clip": [0.5, 2.0]}',
    "run": "20260101-000000-abcdef",
    "sweep": "20260101-000000-abcdef",
    "job": "20260101-000000-abcdef",
    "number": "7",
    "choice": "b",
}


def assault_page(page: str, turns: int, home: Path, known: dict[str, str], seed: int) -> set[str]:
    """Open a page at mutated addresses, each in a session of its own; the keys that were tried.

    Which keys a page has is learnt from what it binds, those that others bring up included.
    """
    chance = random.Random(f"{seed} {page}")
    tried: set[str] = set()
    for turn in range(turns):
        app = AppTest.from_file(str(ROOT / "streamlit_app.py"), default_timeout=60)
        app.run()
        if page != "start":
            app.switch_page(f"pages/{page}.py")
        given = {name: value for name, value in known.items() if turn and chance.random() < 0.5}
        for name, value in given.items():
            # A field that depends on a choice is there only while the choice is a good one.
            text = (
                value.encode() if chance.random() < 0.3 else fuzz.mutated(chance, [value.encode()])
            )
            app.query_params[name] = text.decode("utf-8", "replace")
        asked = {name: quote("".join(value)) for name, value in app.query_params.items()}
        with watched(home):
            app.run()
        assert not app.exception, (page, turn, asked, app.exception[0])
        tried |= set(given)
        if "_kept" in app.session_state:
            bound = app.session_state["_kept"]
            known |= {name: str(value) or "x" for name, value in bound.items() if name not in known}
    return tried


_construct = PagesManager.__init__


def _as_on_a_warm_server(manager: PagesManager, *args: Any, **kwargs: Any) -> None:
    _construct(manager, *args, **kwargs)
    PagesManager.uses_pages_directory = False


@pytest.fixture
def home_with_jobs(
    trace_home: Path, bundled: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A home, and a profile in the bundled one's place that records the bundled model and sets."""
    settings = ProfileConfig(
        forget=SetConfig(source="demo:forget"), retain=SetConfig(source="demo:retain")
    )
    open_profile_of(settings, tmp_path, monkeypatch)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(PagesManager, "__init__", _as_on_a_warm_server)
    return trace_home


def _known(home: Path) -> dict[str, str]:
    run = write_run(home, [eval_row(0, 0.9, 0.8), train_row(10), eval_row(20, 0.3, 0.7)])
    folder = subfolder("audits", home) / run.id
    folder.mkdir()
    (folder / "audit.yaml").write_text(fuzz.AUDIT, encoding="utf-8")
    named = {**ADDRESS, "run": run.id, "job": run.id, "audit": run.id, "profile": KEY}
    return {name: value for name, value in named.items() if name not in ("number", "choice")}


@pytest.mark.fault_row(29)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_at_a_mutated_address_never_ends_in_a_traceback(
    page: str, home_with_jobs: Path
) -> None:
    known = _known(home_with_jobs)
    assert assault_page(page, max(3, FEW // 1000), home_with_jobs, known, seed=4)


@pytest.mark.fault_row(29)
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES)
def test_a_page_at_many_mutated_addresses(page: str, home_with_jobs: Path) -> None:
    asked = _known(home_with_jobs)
    tried = assault_page(page, MANY // 1000, home_with_jobs, dict(asked), seed=5)
    # Its own keys too, which were learnt on the way.
    assert tried >= set(asked)
    assert page in ("start", "selection", "audit", "status") or tried > set(asked)


def assault_readers(turns: int, home: Path, seed: int) -> None:
    """Read every value that an address can hold, mutated."""
    chance = random.Random(seed)
    for turn in range(turns):
        app = AppTest.from_function(_every_value_of_the_address, default_timeout=SECONDS)
        for name, value in ADDRESS.items():
            if chance.random() < 0.6:
                data = fuzz.mutated(chance, [value.encode()])
                app.query_params[name] = data.decode("utf-8", "replace")
        asked = {name: quote("".join(value)) for name, value in app.query_params.items()}
        with watched(home):
            app.run()
        assert not app.exception, (turn, asked, app.exception[0])
        assert len(app.text) == 1


@pytest.mark.fault_row(29)
def test_a_mutated_address_never_ends_in_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path))
    assault_readers(max(40, FEW // 100), tmp_path, seed=3)


@pytest.mark.fault_row(29)
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_mutated_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path))
    assault_readers(MANY // 200, tmp_path, seed=6)
