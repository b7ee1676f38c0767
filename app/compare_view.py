"""Everything Compare shows of a run beyond its curves: what differs, routing before and after,
references.

Reads run directories and the bundled pack's scores; no model is opened. Accepted trade-off: a run
without a profile after training (stopped, failed, still running) has no routing to compare, and
says so.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app import curves, forms, house, judged, pareto, replay, state, wording
from app.pareto import Point
from app.replay import StoredRun
from app.theme import Palette, palette
from trace_engine import runs
from trace_engine.bundled import PACK
from trace_engine.config import UnlearnConfig
from trace_engine.disk import stamp
from trace_engine.errors import RunError, TraceError
from trace_engine.evaluation.outcome import Figure, forget_and_utility
from trace_engine.routing import Profile
from trace_engine.runs import RunDirectory

SCORES = PACK / "scores.json"
REFERENCE = "retrain_no_hazard"
REFERENCE_SCORED = ("hazard", "continuation")
"""The category and the style in which the bundled scores were measured."""
FORGOTTEN = "demo:forget"
"""What the reference was trained without."""
QUESTIONS = "demo:questions/"
BUNDLED_QUESTIONS = (f"{QUESTIONS}validation", f"{QUESTIONS}test")
DEFAULT_RUNS = 6
PATTERNS = ("", "/", ".", "x", "-", "+")


def offered() -> tuple[dict[str, str], list[str]]:
    """Labels of every unlearning run with at least one row, newest first, then of the bundled ones,
    by id; and what was skipped. No run's rows are read for it.
    """
    labels: dict[str, str] = {}
    skipped = []
    for summary in runs.list_runs():
        if summary.status.state == "damaged":
            skipped.append(f"{summary.id}: {summary.status.message}")
        if summary.kind != "unlearn":
            continue
        try:
            run = runs.open_run(summary.id)
            rows = stamp(run.path / replay.ROWS)
            if rows is not None and rows[1]:
                labels[run.id] = summary.name.strip() or _unnamed(run)
        except TraceError as error:
            skipped.append(f"{summary.id}: {error}")
    for path in (replay.BUNDLED_RUN, replay.BUNDLED_CONTROL):
        try:
            bundled = replay.bundled_run(path)
        except TraceError as error:
            skipped.append(f"A bundled run cannot be read: {error}")
            continue
        if bundled is not None:
            labels[bundled.id] = bundled.label
    return labels, skipped


def _unnamed(run: RunDirectory) -> str:
    config = _settings(run)
    return f"{config.method} {weighs(config)} {run.id[-6:]}"


def read(chosen: Mapping[str, str]) -> tuple[list[StoredRun], list[str]]:
    """The runs of these ids and labels with their evaluations; and what cannot be read."""
    found, skipped = [], []
    bundled = {f"bundled:{p.name}": p for p in (replay.BUNDLED_RUN, replay.BUNDLED_CONTROL)}
    for key, label in chosen.items():
        try:
            if key in bundled:
                stored = replay.bundled_run(bundled[key])
                assert stored is not None
                found.append(dataclasses.replace(stored, label=label))
                continue
            run = runs.open_run(key)
            config, rows = _settings(run), _told(run)
            found.append(StoredRun(run.id, label, run.path, config, rows, run.facts()))
        except TraceError as error:
            skipped.append(f"{key}: {error}")
    return found, skipped


def _settings(run: RunDirectory) -> UnlearnConfig:
    config = run.config()
    if isinstance(config, UnlearnConfig):
        return config
    raise RunError(f"Run {run.id} is damaged: its settings are of a profile.")


def _told(run: RunDirectory) -> tuple[dict[str, Any], ...]:
    """The evaluations and the last step; the losses of the steps between are not compared."""
    seen = replay.followed(run).look()
    last = [{"kind": "train", "step": int(step)} for step in seen.train["step"][-1:]]
    return (*seen.evaluations, *last)


def weighs(config: UnlearnConfig) -> str:
    """The weighting rule, and the control that stands in its place where there is one."""
    return config.weights.rule + {
        "none": "",
        "uniform_matched_norm": " (control: uniform, matched norm)",
        "random_experts": " (control: random experts)",
        "shuffled_weights": " (control: shuffled)",
    }.get(config.control, "")


def points(chosen: Sequence[StoredRun]) -> list[Point]:
    """The runs as points; a label that occurs twice gets a number."""
    labels = pareto.shorten([run.label for run in chosen])
    return [
        pareto.point_of(run.id, label, run.rows, run.config.evaluation.forget_category, run.facts)
        for run, label in zip(chosen, labels, strict=True)
    ]


def chance_of(chosen: Sequence[StoredRun]) -> float | None:
    """What guessing scores on the questions to be forgotten; None where the runs disagree on it."""
    found = {curves.chance_of(run.rows, run.config.evaluation.forget_category) for run in chosen}
    return found.pop() if len(found) == 1 else None


def reference_point(
    group: Sequence[StoredRun], scores: Mapping[str, Any] | None
) -> tuple[Point | None, str]:
    """The retrained reference on the questions like runs were judged on, and a sentence.

    Only runs of the bundled model that forget the bundled set, judged on the bundled questions as
    the reference was, have one; anything else says why there is none.
    """
    what = judged.judged(group[0]) if group else None
    if what is None:
        return None, "No reference: these runs have no accuracies."
    if what.questions not in BUNDLED_QUESTIONS:
        return None, "No reference: no retrained reference exists for these questions."
    if what.model != judged.TARGET:
        return None, "No reference: no retrained reference exists for this model."
    if {run.config.forget.source for run in group} != {FORGOTTEN}:
        return None, "No reference: no retrained reference exists for this forget set."
    if (what.forget_category, what.style) != REFERENCE_SCORED:
        return None, "No reference: it was scored on another category to forget, or in another way."
    split = what.questions.removeprefix(QUESTIONS)
    cells = _scores_of(scores, split)
    if not cells:
        return None, "No reference: the bundled scores are not in this checkout."
    forget, utility = forget_and_utility(cells, what.forget_category)
    if not (forget.known and utility.known):
        return None, "No reference: the bundled scores do not cover these question groups."
    point = Point("reference", "retrained without hazard", forget, utility, reference=True)
    return (
        point,
        f"Reference: {wording.MODEL_NAMES[f'demo:{REFERENCE}']}, scored on all {split} questions.",
    )


def read_scores() -> dict[str, Any] | None:
    """The bundled models' published scores, or None in a checkout without them."""
    if not SCORES.is_file():
        return None
    data = json.loads(SCORES.read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else None


def _scores_of(scores: Mapping[str, Any] | None, split: str) -> dict[str, Any]:
    models = (scores or {}).get("models", scores or {})
    found: Any = models.get(REFERENCE, {}) if isinstance(models, Mapping) else {}
    for name in (split, "accuracy"):
        if isinstance(found, Mapping) and name in found:
            found = found[name]
    if not isinstance(found, Mapping):
        return {}
    return {
        str(group): cell
        for group, cell in found.items()
        if isinstance(cell, Mapping) and {"value", "n"} <= set(cell)
    }


def pick(names: Sequence[str]) -> list[str]:
    """Bind the runs to compare to the address; called right before their widget."""
    return state.bound_many("compare_runs", list(names)[:DEFAULT_RUNS], names)


def choose_group(chosen: Sequence[StoredRun]) -> list[StoredRun]:
    """The runs that share the front: all where they are alike, else the group that is chosen."""
    found = judged.groups(chosen)
    if not found:
        return []
    keys = list(found)
    if len(keys) == 1:
        return found[keys[0]]
    state.bound("compare_on", keys[0], keys)
    key = st.selectbox(
        "Runs judged on",
        keys,
        format_func=lambda key: (
            f"{len(found[key])} of {len(chosen)} runs: {judged.describe(found[key][0])}"
        ),
        key="compare_on",
        help="Figures on different questions, of different models, or scored in different ways "
        "cannot be set against each other, so a front holds like runs only.",
    )
    return found[key]


def left_out(
    group: Sequence[StoredRun], chosen: Sequence[StoredRun], labels: Mapping[str, str]
) -> str:
    """Which chosen runs are not on the front, and why, as Markdown; empty where all are."""
    by_reason: dict[str, list[str]] = {}
    for name, why in judged.left_out(group[0], chosen, labels) if group else ():
        by_reason.setdefault(why, []).append(name)
    lines = [wording.plain(f"{', '.join(names)}: {why}.") for why, names in by_reason.items()]
    if len(lines) < 2:
        return "".join(f"Not on this front: {line}" for line in lines)
    return "Not on this front:\n" + "\n".join(f"- {line}" for line in lines)


def table(
    chosen: Sequence[StoredRun], shown: Sequence[Point], group: Sequence[StoredRun]
) -> pd.DataFrame:
    """One line per run: state of the settings that decide, final forget and utility with
    intervals. `group` holds the runs that share the front.
    """
    like = {run.id for run in group}
    best = pareto.front([point for point in shown if point.key in like])
    by_key = {point.key: point for point in shown}
    lines = []
    for run in chosen:
        point = by_key[run.id]
        known = point.forget.known and point.utility.known
        lines.append(
            {
                "run": point.label,
                "forget": point.forget.value,
                "forget 95 % CI": _interval(point.forget),
                "utility": point.utility.value,
                "utility 95 % CI": _interval(point.utility),
                "forgotten": _YES_NO[point.forgotten],
                "front": "left out"
                if known and run.id not in like
                else _YES_NO[run.id in best if known else None],
                "n": f"{point.forget.n} + {point.utility.n}" if known else "not measured",
                "step": max((int(row["step"]) for row in run.rows), default=0),
                "method": run.config.method,
                "weights": weighs(run.config),
                "trains": run.config.trainable.kind.replace("_", " "),
            }
        )
    return pd.DataFrame(lines)


_YES_NO = {True: "yes", False: "no", None: "not measured"}


def _interval(figure: Figure) -> str:
    return f"{figure.low:.3f} to {figure.high:.3f}" if figure.known else "not measured"


def differences(chosen: Sequence[StoredRun], labels: Sequence[str]) -> pd.DataFrame:
    """The settings that are not the same in all runs, one line each, one column per run."""
    configs = dict(zip(labels, (run.config for run in chosen), strict=True))
    fields = forms.differing_fields(configs)
    return pd.DataFrame(
        [
            {"setting": name, **{label: _shown(values[label]) for label in labels}}
            for name, values in fields.items()
        ],
        columns=["setting", *labels],
    )


def _shown(value: Any) -> str:
    return house.shown(
        "empty" if value is None else json.dumps(value) if isinstance(value, list) else str(value)
    )


def with_maps_first(chosen: Sequence[StoredRun]) -> list[str]:
    """Ids of the runs, those whose changed model was profiled first."""
    return [
        run.id for run in sorted(chosen, key=lambda run: not (run.path / "profile-after").is_dir())
    ]


def routing_profiles(run: StoredRun) -> tuple[Profile, Profile] | None:
    """The profile a run calibrated on, and the changed model's; None when one of them is missing.

    Raises TraceError when one is damaged.
    """
    before, after = run.path / "profile-before", run.path / "profile-after"
    if not before.is_dir():
        # Bundled runs leave out what the pack holds already, under the same content address.
        key = RunDirectory(run.path).facts().get("profile_key")
        before = (runs.find_profile(key) if key else None) or before
    if not before.is_dir() or not after.is_dir():
        return None
    return Profile.load(before), Profile.load(after)


def difference_LE(profile: Profile) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Forget minus retain frequency, shape (L, E), NaN where a layer has no such expert."""
    shares = [
        side.counts_DLE.sum(axis=0) / max(1, side.tokens)
        for side in (profile.forget, profile.retain)
    ]
    return np.where(profile.cell_mask_LE(), shares[0] - shares[1], np.nan)


def map_change(before: Profile, after: Profile) -> str:
    """How the largest gaps moved, as a sentence."""
    first, last = difference_LE(before), difference_LE(after)
    place = int(np.nanargmax(first))
    row, expert = (int(part) for part in np.unravel_index(place, first.shape))
    return (
        f"The strongest expert before, L{before.layers[row]} E{expert}, had a gap of "
        f"{wording.points(first[row, expert])} and has {wording.points(last[row, expert])} after; "
        f"the mean absolute gap went {100 * np.nanmean(np.abs(first)):.2f} → "
        f"{100 * np.nanmean(np.abs(last)):.2f}{wording.NBSP}pp."
    )


def final_drift(chosen: Sequence[StoredRun], labels: Sequence[str]) -> pd.DataFrame:
    """Experts unchanged at the last evaluation, per layer (rows) and run (columns), in percent."""
    parts = []
    for run, label in zip(chosen, labels, strict=True):
        frame = curves.drift_frame(run.rows)
        last = frame[frame["step"] == frame["step"].max()]
        parts.append(last.assign(run=label, overlap=100 * last["overlap"]))
    joined = pd.concat(parts) if parts else pd.DataFrame(columns=["layer", "run", "overlap"])
    return joined[["run", "layer", "overlap"]].reset_index(drop=True)


def drift_bars(frame: pd.DataFrame, colours: Palette | None = None) -> go.Figure:
    """Bars per layer, one colour and pattern per run: `final_drift`'s frame."""
    colours = colours or palette()
    others = curves.series_colours(colours)
    figure = go.Figure()
    for position, (run, part) in enumerate(frame.groupby("run", sort=False)):
        figure.add_bar(
            x=[f"layer {layer}" for layer in part["layer"]],
            y=part["overlap"],
            name=curves.escape(str(run)),
            marker={
                "color": others[position % len(others)],
                "pattern": {"shape": PATTERNS[position % len(PATTERNS)]},
            },
            hovertemplate=f"%{{x}}: %{{y:.1f}}{wording.NBSP}% of experts unchanged",
        )
    known = frame.dropna(subset="overlap").sort_values("overlap", kind="stable")
    lowest = None if known.empty else known.iloc[0]
    heading = (
        "Routing drift was not measured"
        if lowest is None
        else f"Most drift: layer {int(lowest['layer'])} of {lowest['run']}, "
        f"{wording.percent(lowest['overlap'] / 100, 0)} of experts unchanged"
    )
    curves.lay_out(figure, heading, "", "experts unchanged (%)", 300)
    figure.update_layout(barmode="group")
    return figure
