"""What pages share: the profile, the current cell, selection, weights and the run.

Everything is kept as text in `app.address`, mirrored in the URL, and validated here against the
profile whenever it is read: what is refused becomes a sentence and the default, never a traceback.
Accepted trade-off: the check is repeated on every read, which costs microseconds.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import streamlit as st
from pydantic import BaseModel, ValidationError

from app import wording
from app.address import begin, bound, bound_many, core, notice, put, take_notices, unbind
from trace_engine.bundled import PACK
from trace_engine.config import Cell, SelectionConfig, WeightsConfig
from trace_engine.disk import parse_json
from trace_engine.errors import InputError, TraceError
from trace_engine.refusal import describe
from trace_engine.routing import Mismatch, Profile, load_mismatch, mismatch
from trace_engine.runs import find_profile

BUNDLED = "bundled"
"""Key of the profile that ships with the project; the default, so it never stands in the URL."""
BUNDLED_PATH = PACK / "profile"
SAME_STYLE = "same_style"
"""Key of the second bundled profile: hazard against general glosses, same style of text."""
SAME_STYLE_PATH = PACK / "profile_same_style"

Settings = TypeVar("Settings", bound=BaseModel)
__all__ = ["begin", "bound", "bound_many", "notice", "take_notices", "unbind"]


@dataclass(frozen=True, slots=True)
class ProfileView:
    """A profile that is open in the app, with its statistics."""

    key: str
    path: Path
    profile: Profile
    mismatch: Mismatch

    @property
    def forget_name(self) -> str:
        """What the forget set calls itself."""
        return side_name(self.profile, "forget")

    @property
    def retain_name(self) -> str:
        """What the retain set calls itself."""
        return side_name(self.profile, "retain")


# --- profiles ------------------------------------------------------------------------------------


def side_name(profile: Profile, side: str) -> str:
    """What to call a side's set: the name that the profile recorded, in words if bundled."""
    name = str(recorded_set(profile, side).get("name") or f"{side} set")
    # Sets of one's own are kept under their fingerprint, which says nothing to a person.
    if re.fullmatch(r"[0-9a-f]{64}", name):
        return f"own {side} set ({name[:8]})"
    return wording.SET_NAMES.get(name, name)


def recorded_set(profile: Profile, side: str) -> dict[str, Any]:
    """What the profile recorded about a side's set: name, source, fingerprint; empty if nothing."""
    sets = profile.meta.get("sets")
    recorded = sets.get(side) if isinstance(sets, dict) else None
    return recorded if isinstance(recorded, dict) else {}


@st.cache_resource(max_entries=8, show_spinner="Reading the profile …")
def _open(path: str, modified: int) -> tuple[Profile, Mismatch]:
    profile = Profile.load(Path(path))
    # The worker saves the map beside its profile; one copied without it is computed once here.
    if (Path(path) / "mismatch.npz").is_file():
        return profile, load_mismatch(path)
    return profile, mismatch(profile)


def _modified(path: Path) -> int:
    return (path / "profile.json").stat().st_mtime_ns


def profile_path(key: str) -> Path | None:
    """The directory behind a profile key, or None when there is no such profile.

    Keys are looked up, never joined to a path by the app: `find_profile` refuses what is no key.
    """
    if key == BUNDLED:
        path = BUNDLED_PATH
    elif key == SAME_STYLE:
        path = SAME_STYLE_PATH
    else:
        try:
            found = find_profile(key)
        except TraceError:
            return None
        if found is None:
            return None
        path = found
    return path if (path / "profile.json").is_file() else None


def open_profile(key: str) -> ProfileView | None:
    """The profile behind a key, or None if there is none. Raises TraceError when damaged."""
    path = profile_path(key)
    if path is None:
        return None
    profile, statistics = _open(str(path), _modified(path))
    return ProfileView(key, path, profile, statistics)


def current_profile() -> ProfileView | None:
    """The profile that every page looks at: the URL's `profile`, else the bundled one.

    None when neither is there (a checkout without the pack); pages then say so with
    `wording.NO_PROFILE`. An unknown key becomes a notice and the bundled profile.
    """
    key = core().get("profile", BUNDLED)
    try:
        view = open_profile(key)
    except TraceError as error:
        notice(f"{error} The bundled profile is shown instead.")
        view = None
    if view is None and key != BUNDLED:
        notice(
            f"There is no profile {key[:80]!r} on this machine. "
            "The bundled profile is shown instead."
        )
        put(profile=None, layer=None, expert=None)
        view = open_profile(BUNDLED)
    return view


def set_profile(key: str) -> None:
    """Make `key` the current profile; cell and selection go back to their defaults."""
    put(profile=None if key == BUNDLED else key, layer=None, expert=None, sel=None)


# --- the cell ------------------------------------------------------------------------------------


def strongest_cell(view: ProfileView) -> Cell:
    """The cell with the largest forget minus retain frequency; ties break by (layer, expert)."""
    difference_LE = np.where(view.profile.cell_mask_LE(), view.mismatch.difference, -np.inf)
    row, expert = np.unravel_index(int(np.argmax(difference_LE)), difference_LE.shape)
    return Cell(int(view.profile.layers[row]), int(expert))


def check_cell(profile: Profile, layer: int, expert: int) -> Cell:
    """The cell, if the profile has it. Raises InputError naming what there is."""
    profile.check_cell(layer, expert)
    return Cell(layer, expert)


def cell() -> Cell | None:
    """The cell in focus: as the URL says, else the strongest; None without a profile."""
    view = current_profile()
    if view is None:
        return None
    known = core()
    if "layer" not in known and "expert" not in known:
        return strongest_cell(view)
    try:
        layer, expert = (_whole(known.get(name), name) for name in ("layer", "expert"))
        return check_cell(view.profile, layer, expert)
    except InputError as error:
        notice(f"{error} The strongest cell is shown instead.")
        put(layer=None, expert=None)
        return strongest_cell(view)


def _whole(text: str | None, name: str) -> int:
    if text is None:
        raise InputError(f"The address names no {name}.")
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{name} must be a whole number, found {text[:40]!r}.") from None


def set_cell(cell: Cell | tuple[int, int]) -> None:
    """Put a cell in focus. Raises InputError when the current profile has no such cell."""
    view = current_profile()
    if view is None:
        return
    checked = check_cell(view.profile, int(cell[0]), int(cell[1]))
    put(layer=str(checked.layer), expert=str(checked.expert))


# --- selection, weights, run ---------------------------------------------------------------------


def _settings(name: str, kind: type[Settings]) -> Settings:
    text = core().get(name)
    if text is None:
        return kind()
    try:
        return kind.model_validate(parse_json(text))
    except ValueError as error:
        reason = describe(error) if isinstance(error, ValidationError) else "it is not JSON."
        notice(f"The address's {name!r} was refused: {reason} The defaults are used instead.")
        put(**{name: None})
        return kind()


def _set_settings(name: str, config: BaseModel) -> None:
    changed = config.model_dump(mode="json", exclude_defaults=True)
    put(**{name: json.dumps(changed, separators=(",", ":")) if changed else None})


def selection_config() -> SelectionConfig:
    """How experts are chosen; hand-picked cells that the profile lacks are dropped and named."""
    config = _settings("sel", SelectionConfig)
    view = current_profile()
    if view is None:
        return config
    wrong = [c for c in (*config.add, *config.remove) if not _has(view.profile, c)]
    layers = [layer for layer in config.layers or () if layer not in view.profile.layers]
    if not wrong and not layers:
        return config
    named = ", ".join([*(cell_name(c) for c in wrong), *(f"layer {layer}" for layer in layers)])
    notice(f"The selection named what this model does not have ({named}); it was left out.")
    kept = tuple(layer for layer in config.layers or () if layer not in layers) or None
    config = config.model_copy(
        update={
            "add": tuple(c for c in config.add if c not in wrong),
            "remove": tuple(c for c in config.remove if c not in wrong),
            "layers": kept,
        }
    )
    _set_settings("sel", config)
    return config


def _has(profile: Profile, cell: Cell) -> bool:
    try:
        check_cell(profile, cell.layer, cell.expert)
    except InputError:
        return False
    return True


def set_selection_config(config: SelectionConfig) -> None:
    """Replace the selection settings."""
    _set_settings("sel", config)


def weights_config() -> WeightsConfig:
    """How retain tokens are weighted."""
    return _settings("weights", WeightsConfig)


def set_weights_config(config: WeightsConfig) -> None:
    """Replace the weighting settings."""
    _set_settings("weights", config)


def pin(cell: Cell) -> None:
    """Add a cell to the selection by hand."""
    config = selection_config()
    remove = tuple(c for c in config.remove if c != cell)
    add = config.add if cell in config.add else (*config.add, cell)
    set_selection_config(config.model_copy(update={"add": add, "remove": remove}))


def leave_out(cell: Cell) -> None:
    """Take a cell out of the selection by hand."""
    config = selection_config()
    add = tuple(c for c in config.add if c != cell)
    remove = config.remove if cell in config.remove else (*config.remove, cell)
    set_selection_config(config.model_copy(update={"add": add, "remove": remove}))


def unpick(cell: Cell) -> None:
    """Undo `pin` and `leave_out`: the rule alone decides about the cell again."""
    config = selection_config()
    set_selection_config(
        config.model_copy(
            update={
                "add": tuple(c for c in config.add if c != cell),
                "remove": tuple(c for c in config.remove if c != cell),
            }
        )
    )


def run_id() -> str | None:
    """The run in the URL, if any. Not validated here: look it up with `trace_engine.runs`."""
    return core().get("run")


def set_run_id(run: str | None) -> None:
    """Put a run in focus, or none."""
    put(run=run)


def sweep_id() -> str | None:
    """The sweep in the URL, if any. Not validated here, as with `run_id`."""
    return core().get("sweep")


def set_sweep_id(sweep: str | None) -> None:
    """Put a sweep in focus, or none; the run in focus goes with the sweep it was opened from."""
    put(sweep=sweep, run=None)


def job_id() -> str | None:
    """The profiling job in the URL, if any. Not validated here, as with `run_id`."""
    return core().get("job")


def set_job_id(job: str | None) -> None:
    """Put a profiling job in focus, or none."""
    put(job=job)


def reset() -> None:
    """One click back to the first screen: bundled profile, default selection, no run."""
    for name in list(st.session_state):
        if name not in ("_page", "teaching"):
            del st.session_state[name]
    st.session_state["_core"] = {}
    for name in list(st.query_params):
        del st.query_params[name]


def cell_name(cell: Cell | tuple[int, int]) -> str:
    """How a cell is written for people, everywhere the same: `L2 E13`."""
    return f"L{cell[0]} E{cell[1]}"


def audit_id() -> str | None:
    """The audit in the URL, if any. Not validated here, as with `run_id`."""
    return core().get("audit")


def set_audit_id(audit: str | None) -> None:
    """Put an audit in focus, or none."""
    put(audit=audit)
