"""Names from outside never become paths."""

import stat
from pathlib import Path

import pytest

from trace_engine.errors import RunError
from trace_engine.runs import delete, find_profile, home, open_run, resume, stop
from trace_engine.runs.places import new_run_id, run_path, subfolder

BAD_IDS = [
    "",
    "..",
    "../runs",
    "/etc",
    "20260101-000000-abcdef/../x",
    "20260101-000000-abcdef\0",
    "20260101-000000-abcdef\n",
    "a" * 300,
    "20260101-000000-ABCDEF",
]


@pytest.mark.fault_row(23)
@pytest.mark.parametrize("run_id", BAD_IDS)
@pytest.mark.parametrize("door", [open_run, resume, stop, delete])
def test_only_an_id_opens_a_run(tmp_path: Path, run_id: str, door: object) -> None:
    with pytest.raises(RunError, match="is not a run id"):
        door(run_id, tmp_path)  # type: ignore[operator]


@pytest.mark.fault_row(23)
def test_a_link_is_not_a_run(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    run_id = new_run_id()
    (subfolder("runs", tmp_path / "home") / run_id).symlink_to(outside)
    with pytest.raises(RunError, match="There is no run"):
        run_path(run_id, tmp_path / "home")


@pytest.mark.parametrize("key", ["..", "abc", "g" * 64, "a" * 65, "/" + "a" * 63])
def test_only_a_key_finds_a_profile(tmp_path: Path, key: str) -> None:
    with pytest.raises(RunError, match="is not a profile key"):
        find_profile(key, tmp_path)


def test_home_is_private_and_follows_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACE_HOME", str(tmp_path / "here"))
    assert home() == tmp_path / "here"
    assert stat.S_IMODE(home().stat().st_mode) == 0o700
    assert find_profile("a" * 64) is None


def test_ids_do_not_repeat() -> None:
    assert len({new_run_id() for _ in range(200)}) == 200
