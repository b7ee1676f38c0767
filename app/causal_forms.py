"""The settings of causal evidence on the page: questions, mode, experts, models.

The model is the open profile's; experts are those of Selection & weights, or the cell in focus.
Everything is mirrored in the address. It accepts the few settings that decide most; the command
takes the rest.
"""

import shlex
from collections.abc import Sequence

import streamlit as st

from app import findings, question_form, state
from trace_engine.bundled import MODELS
from trace_engine.causal.settings import CausalConfig, What, parse_causal
from trace_engine.config import Cell, ModelConfig, ProfileConfig
from trace_engine.errors import TraceError
from trace_engine.runs import list_runs, open_run
from trace_engine.runs.places import is_run_id

MODES = {"drop": "Drop", "reroute": "Re-route"}
ORDERS = {"none": "No order", "one_at_a_time": "One at a time", "greedy": "Greedy"}
COUNTS = ("25", "50", "100", "200", "all")


def questions(base: ProfileConfig) -> dict[str, object] | None:
    """What is asked, and how experts are taken out; None while no questions are named."""
    offered = [name for name in question_form.question_sources(base)
               if name != question_form.NO_QUESTIONS]  # fmt: skip
    left, middle, right = st.columns([2, 1, 1], vertical_alignment="bottom")
    state.bound("causal_questions", offered[0], offered)
    source = left.selectbox(
        "Questions",
        offered,
        key="causal_questions",
        format_func=lambda name: question_form.QUESTION_NAMES.get(name, name),
        help=CausalConfig.model_fields["questions"].description,
    )
    state.bound("causal_count", "100", COUNTS)
    count = middle.selectbox("Per category, at most", COUNTS, key="causal_count")
    state.bound("causal_mode", "drop", MODES)
    mode = right.segmented_control(
        "Taken out by",
        list(MODES),
        format_func=lambda key: MODES[key],
        key="causal_mode",
        required=True,
        help=CausalConfig.model_fields["mode"].description,
    )
    category = "hazard"
    if source == question_form.OTHER_FILE:
        left, right = st.columns([2, 1])
        state.bound("causal_file", "", read=str)
        source = left.text_input("File, folder or hub id of questions", key="causal_file")
        state.bound("causal_category", "hazard", read=str)
        category = right.text_input("Category to forget", key="causal_category")
        if not source.strip():
            return None
    return {
        "questions": source.strip(),
        "forget_category": category.strip(),
        "max_questions": None if count == "all" else int(count),
        "mode": mode,
    }


def cells(view: state.ProfileView, focus: Cell) -> tuple[Cell, ...]:
    """The set that is taken out together: the selection's, or the cell in focus."""
    selected = findings.selected_cells(view)
    choices = {"selection": f"The {len(selected)} selected experts"} if selected else {}
    choices |= {"focus": f"{state.cell_name(focus)}, the cell in focus"}
    state.bound("causal_set", next(iter(choices)), choices)
    chosen = st.segmented_control(
        "Experts",
        list(choices),
        format_func=lambda key: choices[key],
        key="causal_set",
        required=True,
    )
    return selected if chosen == "selection" else (focus,)


def config(
    view: state.ProfileView,
    base: ProfileConfig,
    asked: dict[str, object],
    what: What,
    **more: object,
) -> CausalConfig:
    """The job's settings. Raises InputError naming what is refused."""
    fields: dict[str, object] = {"what": what, "model": base.model} | asked | more
    if what != "rerouted":
        fields["profile"] = str(view.path)
    return parse_causal(fields)


def finished_models() -> dict[str, str]:
    """Ids and names of the finished runs, whose models may be compared with the profile's."""
    found: dict[str, str] = {}
    for summary in list_runs():
        if summary.status.state == "done" and summary.kind == "unlearn":
            try:
                kept = open_run(summary.id).path / "model"
            except TraceError:
                continue
            if kept.is_dir():
                found[summary.id] = f"run {summary.name or summary.id}"
    return found


def pair(base: ProfileConfig) -> tuple[ModelConfig, ModelConfig | None] | None:
    """The new model, and a reference where there is one; None while no model is named."""
    other = "a folder or hub id of my own"
    offered = finished_models()
    reference = None
    if base.model.source == "demo:target":
        reference = base.model.model_copy(update={"source": "demo:retrain_no_hazard"})
        offered |= {f"demo:{name}": f"bundled: {name.replace('_', ' ')}" for name in MODELS[1:]}
    choices = [*offered, other]
    state.bound("causal_after", choices[0], choices)
    chosen = st.selectbox(
        "New model, compared with the profile's",
        choices,
        key="causal_after",
        format_func=lambda name: offered.get(name, name),
    )
    source = chosen
    if chosen == other:
        state.bound("causal_folder", "", read=str)
        source = st.text_input("Folder or hub id of the new model", key="causal_folder").strip()
        if not source:
            return None
    elif is_run_id(chosen):
        source = str(open_run(chosen).path / "model")
    return base.model.model_copy(update={"source": source, "revision": None}), reference


def command(settings: CausalConfig, cells: Sequence[Cell] = ()) -> str:
    """The command that does the same."""
    words = ["--model", settings.model.source]
    if settings.what == "rerouted":
        assert settings.before is not None
        words += ["--before", settings.before.source]
        if settings.reference is not None:
            words += ["--reference", settings.reference.source]
    for name in ("questions", "forget_category", "max_questions", "mode", "order", "profile"):
        value = getattr(settings, name)
        if settings.what == "rerouted" and name in ("mode", "order", "profile"):
            continue
        if name == "max_questions" and value is None:
            value = 1_000_000
        if value is not None and value != CausalConfig.model_fields[name].default:
            words += ["--" + name.replace("_", "-"), str(value)]
    for cell in cells:
        words += ["--cell", f"{cell.layer}:{cell.expert}"]
    verb = "rerouted" if settings.what == "rerouted" else "ablate"
    return f"trace-moe {verb} " + shlex.join(words).replace(" --", " \\\n  --")
