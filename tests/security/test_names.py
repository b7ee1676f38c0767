"""No name leaves the data root: whatever stands where an id, a key, a label or a file's name is
expected, it is refused in a sentence or stays inside, and nothing outside is touched."""

from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.benchmark.cases import tiny_bench
from tests.runs.light_worker import config
from trace_engine import bundled, runs, sweeps
from trace_engine.benchmark.settings import BenchConfig
from trace_engine.bundled import resolve_source
from trace_engine.cli import running
from trace_engine.csvfile import safe_cell
from trace_engine.errors import InputError, RunError, TraceError
from trace_engine.runs.places import is_run_id, profile_path, subfolder
from trace_engine.sets import Document, DocumentSet, parse_documents, safe_label

RUN_ID = "20260101-000000-abcdef"
_PARTS = st.sampled_from(
    [
        *("..", ".", "", "/", "\\", "~", "\0", "\n", "%2e%2e", "a" * 300, "..\\", "／", "\u202e"),
        *("C:", "etc", "passwd", "runs", "victim", RUN_ID, "demo", ":", "*", "$HOME", "-rf"),
    ]
)
NAMES = st.one_of(
    st.text(max_size=400),
    st.lists(_PARTS, max_size=6).map("/".join),
    st.lists(_PARTS, max_size=6).map("".join),
    st.tuples(st.just(RUN_ID), st.text(max_size=5)).map("".join),
)
"""Text of every kind, paths upwards, absolute ones, and an id with something behind it."""

hostile = settings(max_examples=150, deadline=None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one run, and beside it what no name may reach."""
    root = tmp_path_factory.mktemp("root")
    home = root / "home"
    run = runs.RunDirectory(subfolder("runs", home) / RUN_ID)
    with run.create(config(root, name="inside")):
        run.update(state="stopped")
    for folder in (root / "victim", root / RUN_ID, home / "victim"):
        folder.mkdir()
        (folder / "status.json").write_text('{"state": "stopped"}')
        (folder / "config.yaml").write_text("kind: unlearn")
    # Folders that the doors make by themselves, so that a difference is a name's doing.
    for name in ("profiles", "sweeps", "sets"):
        subfolder(name, home)
    return root


def snapshot(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def refusal(call: Callable[[], object]) -> str | None:
    """The sentence that a call is refused with, or None."""
    try:
        call()
    except (TraceError, ValidationError) as refused:
        return str(refused)
    return None


DOORS: list[Callable[[str, Path], object]] = [
    runs.open_run,
    runs.resume,
    runs.stop,
    runs.delete,
    runs.find_profile,
    sweeps.open_sweep,
]


@pytest.mark.fault_row(23)
@hostile
@given(name=NAMES.filter(lambda name: name != RUN_ID), door=st.sampled_from(DOORS))
@example(name="../victim", door=runs.delete)
@example(name=f"{RUN_ID}/../../../victim", door=runs.delete)
@example(name=f"{RUN_ID}\n", door=runs.delete)
def test_an_id_or_key_from_outside_opens_nothing_and_changes_nothing(
    place: Path, name: str, door: Callable[[str, Path], object]
) -> None:
    before = snapshot(place)
    found: list[object] = []
    said = refusal(lambda: found.append(door(name, place / "home")))
    # A key in its form that no profile has is no refusal, and finds nothing.
    assert found == [None] if said is None else len(said) < 200
    assert snapshot(place) == before


@hostile
@given(name=NAMES)
def test_a_key_that_is_accepted_is_a_folder_of_the_profiles(place: Path, name: str) -> None:
    try:
        path = profile_path(name, place / "home")
    except RunError:
        return
    assert path.parent == place / "home" / "profiles"
    assert set(path.name) <= set("0123456789abcdef")


@hostile
@given(name=NAMES)
@example(name="inside")
@example(name="../../victim")
@example(name="questions/../../../victim")
def test_a_bundled_name_stays_in_the_pack(place: Path, name: str) -> None:
    """A pack with sets that a name upwards would reach, if it were followed."""
    pack = place / "packs" / "pack"
    for folder in (pack / "sets", pack / "questions", pack / "book"):
        folder.mkdir(parents=True, exist_ok=True)
    for file in (pack / "sets" / "inside", place / "packs" / "victim", place / "victim"):
        file.with_suffix(".jsonl").write_text("{}", encoding="utf-8")
    with mock.patch.object(bundled, "PACK", pack):
        try:
            path = Path(resolve_source(f"demo:{name}"))
        except InputError:
            assert name != "inside"
            return
    assert path.resolve().is_relative_to(pack.resolve())


@pytest.mark.fault_row(23)
@hostile
@given(name=NAMES)
def test_an_uploads_name_is_a_label_and_its_text_is_kept_under_its_hash(
    place: Path, name: str
) -> None:
    label = safe_label(name)
    assert "/" not in label
    assert "\\" not in label
    assert label.strip(".")
    documents = DocumentSet.of(name, name, [Document("0", "text")])
    path = Path(runs.store_set(documents, place / "home"))
    assert path == place / "home" / "sets" / f"{documents.fingerprint}.jsonl"
    said = refusal(lambda: parse_documents(f"{name}.txt", b"text"))
    assert said is None or str(place) not in said


@pytest.mark.fault_row(23)
@settings(max_examples=25, deadline=None)
@example(name="\x85")
@given(name=NAMES.filter(lambda name: name.strip("/. \\\0\n") != ""))
def test_an_imported_run_gets_an_id_of_ours(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    root = tmp_path_factory.mktemp("import")
    last = "".join(c for c in name if c not in "/\0")[:60]
    try:
        run = runs.RunDirectory(root / "given" / last)
        with run.create(config(root, name=name)):
            run.update(state="stopped")
    except (OSError, ValueError, UnicodeError):
        return  # no file system has such a name
    run_id = runs.import_run(run.path, root / "home")
    assert is_run_id(run_id)
    assert [path.name for path in (root / "home" / "runs").iterdir()] == [run_id]
    assert runs.open_run(run_id, root / "home").config().name == name


@pytest.mark.fault_row(23)
@hostile
@given(name=NAMES)
def test_a_tables_retain_set_is_a_file_of_its_folder(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "bench"
    folder.mkdir(exist_ok=True)
    data = tiny_bench(folder).model_dump(mode="json")
    data["retain"] = {name: data["retain"]["plain"]}
    said = refusal(lambda: BenchConfig.model_validate(data))
    if said is not None:
        assert "cannot be that of a file" in said
        return
    target = folder / "sets" / f"{name}.jsonl"
    assert target.parent == folder / "sets"
    assert target.resolve().parent == (folder / "sets").resolve()


@hostile
@given(name=NAMES)
def test_a_run_named_on_the_command_line_is_an_id_or_a_folder_that_is_there(
    place: Path, name: str
) -> None:
    """The shell's user may name any folder; one that is no run is refused, and nothing is made."""
    before = snapshot(place)
    try:
        running.find(name).status()
    except (TraceError, OSError, ValueError):
        assert snapshot(place) == before


@pytest.mark.fault_row(25)
@given(text=st.text(max_size=30))
def test_a_cell_of_a_csv_is_never_a_formula(text: str) -> None:
    shown = str(safe_cell(text))
    assert not shown.startswith(("=", "+", "-", "@", "\t", "\r"))
