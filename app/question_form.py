"""The questions that a run or a scan asks: the bundled ones, a file of one's own, or none.

A file of one's own is read here, so that its refusal comes before a launch. Accepted trade-off: a
hub set or a folder is left to the worker, because reading it may take the network or long.
"""

import os

import streamlit as st

from app import fields, forms, house, state
from trace_engine.bundled import PACK
from trace_engine.config import EvaluationConfig, ProfileConfig
from trace_engine.demo.settings import QUESTIONS_PER_GROUP
from trace_engine.errors import TraceError
from trace_engine.sets import load_questions
from trace_engine.sets.load import HUB_PREFIX

NO_QUESTIONS = "none: loss on held-out documents"
OTHER_FILE = "a file of my own"
TEST_QUESTIONS = "demo:questions/test"
QUESTION_NAMES = {
    "demo:questions/validation": "bundled, validation: to choose settings by",
    TEST_QUESTIONS: "bundled, test: for the last word",
}
TEST_WARNING = (
    "Settings that are chosen by looking at test questions make their score too good. Choose on "
    "validation questions, and ask these once."
)
STYLES = {
    "continuation": "each choice's own words",
    "letters": "the letters A–D, after an MMLU prompt",
}
"""How a question is answered, in words."""
NO_PATH = (
    "A question file of your own is chosen and no path is given. Give its path, or choose other "
    "questions."
)


def question_sources(base: ProfileConfig) -> list[str]:
    """Question files on offer: the bundled ones for the bundled sets, then none, then one's own."""
    bundled = base.forget.source.startswith("demo:")
    offered = [
        name
        for name in QUESTION_NAMES
        if bundled and (PACK / f"{name.removeprefix('demo:')}.jsonl").is_file()
    ]
    return [*offered, NO_QUESTIONS, OTHER_FILE]


@st.cache_data(max_entries=16, show_spinner="Reading the questions …")
def _question_file(path: str, stamp: tuple[int, int]) -> tuple[tuple[str, ...], str | None]:
    try:
        questions = load_questions(path)
    except TraceError as error:
        return (), str(error)
    return tuple(sorted({question.category for question in questions})), None


def question_trouble(path: str, category: str) -> str | None:
    """Why a question file of one's own cannot be asked, or None; the worker would say the same."""
    if not path:
        return NO_PATH
    # os.path says no to what Path raises for; a device or a pipe would never end.
    if path.startswith(HUB_PREFIX) or os.path.isdir(path):
        return None  # may be large, or must be fetched: read by the run, which refuses it likewise
    if not os.path.isfile(path):
        return f"{path[:200]}: there is no such question file on this machine."
    status = os.stat(path)
    categories, refusal = _question_file(path, (status.st_mtime_ns, status.st_size))
    if refusal is not None:
        return refusal
    if category not in categories:
        shown = ", ".join(categories[:12]) + (" …" if len(categories) > 12 else "")
        return (
            f"{os.path.basename(path)}: no question has the category {category!r}, which should be "
            f"forgotten. The file has: {shown}."
        )
    return None


def draw(base: ProfileConfig) -> tuple[EvaluationConfig, str | None]:
    """The widgets: the settings, and why the questions cannot be asked, or None."""
    offered = question_sources(base)
    asked = st.session_state.get("u_questions", st.session_state.get("_u_questions"))
    # Set anew in every run: what was off the screen for a while is else drawn empty.
    st.session_state["u_questions"] = asked if asked in offered else offered[0]
    chosen = st.selectbox(
        "Questions",
        offered,
        key="u_questions",
        help=forms.help_of(EvaluationConfig, "questions"),
        format_func=lambda name: QUESTION_NAMES.get(name, name),
    )
    if chosen == TEST_QUESTIONS:
        st.caption(TEST_WARNING)
    st.session_state["_u_questions"] = chosen
    questions: str | None = chosen
    trouble = None
    category = EvaluationConfig().forget_category
    if chosen == NO_QUESTIONS:
        questions = None
    elif chosen == OTHER_FILE:
        questions = st.text_input(
            "Question file (.jsonl), or a published set's folder",
            key="u_question_file",
            max_chars=1000,
            disabled=house.rules().read_only,
            placeholder="question, choices, answer, category in every row",
            persist_state="session",
        ).strip()
        category = st.text_input(
            "Category that should be forgotten",
            category,
            key="u_category",
            max_chars=200,
            help=forms.help_of(EvaluationConfig, "forget_category"),
            persist_state="session",
        )
        trouble = question_trouble(questions, category)
    style = EvaluationConfig().style if questions is None else _style()
    every, limit = st.columns(2)
    with every:
        steps = fields.number("Evaluate every", "every", int, EvaluationConfig, min_value=1, step=5)
    most = None
    if questions is not None:
        with limit:
            bundled = chosen.startswith("demo:")
            most_asked = QUESTIONS_PER_GROUP if bundled else 0
            state.bound("u_most", most_asked, read=fields.within(int, 0, fields.MOST))
            most = st.number_input(
                "Questions per group",
                0,
                step=50,
                key="u_most",
                help="0 asks all. Fewer is faster, and the intervals get wider.",
            )
    settings = {
        "every": steps,
        "questions": questions,
        "forget_category": category,
        "style": style,
        "max_questions": most or None,
    }
    return EvaluationConfig.model_validate(settings), trouble


def _style() -> str:
    state.bound("u_style", "continuation", list(STYLES))
    return forms.option(
        "What is scored", STYLES, key="u_style", help=forms.help_of(EvaluationConfig, "style")
    )
