"""The same questions side by side: what each run answered before and after, where it was recorded.

Reads `picked` of the first and last evaluation row: question number in the file -> number of the
choice that was most likely. Accepted trade-off: rows without it say "not recorded"; the app opens
no model to ask.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import streamlit as st

from app import curves, tables, wording, words
from app.replay import StoredRun
from trace_engine.bundled import is_bundled
from trace_engine.errors import TraceError
from trace_engine.evaluation.outcome import up_to_saved
from trace_engine.sets import Question, load_questions

NOT_RECORDED = "not recorded"
_REVEALED = "_prompts_revealed"


def picked(run: StoredRun) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """Answers at the first evaluation and at that of the saved model, by question number; None if
    not recorded."""
    evaluations = up_to_saved(curves.last_per_step(run.rows, "eval"), run.facts)
    if not evaluations:
        return None
    first, last = evaluations[0].get("picked"), evaluations[-1].get("picked")
    if not isinstance(first, Mapping) or not isinstance(last, Mapping):
        return None
    return first, last


def answer_of(question: Question, number: int, answers: Mapping[str, Any]) -> str:
    """One recorded answer in words, with whether it is right."""
    choice = answers.get(str(number))
    if not isinstance(choice, int) or not 0 <= choice < len(question.choices):
        return NOT_RECORDED
    mark = "right" if choice == question.answer else "wrong"
    return f"{mark}: {question.choices[choice]}"


def answers_frame(
    questions: Sequence[tuple[int, Question]], runs: Sequence[StoredRun], labels: Sequence[str]
) -> pd.DataFrame:
    """One line per question and run: category, question, run, before, after."""
    lines = []
    for number, question in questions:
        for run, label in zip(runs, labels, strict=True):
            recorded = picked(run)
            before, after = (
                (NOT_RECORDED, NOT_RECORDED)
                if recorded is None
                else tuple(answer_of(question, number, part) for part in recorded)
            )
            lines.append(
                {
                    "category": question.category,
                    "question": question.question,
                    "run": label,
                    "before": before,
                    "after": after,
                }
            )
    return pd.DataFrame(lines, columns=["category", "question", "run", "before", "after"])


def draw(runs: Sequence[StoredRun], labels: Sequence[str]) -> None:
    """Choose questions, see every run's answers."""
    asked = [run for run in runs if run.config.evaluation.questions is not None]
    recorded = [run for run in asked if picked(run) is not None]
    if not asked:
        st.caption("No chosen run asked questions: these were judged by their loss on documents.")
        return
    if not recorded:
        st.caption(
            "Not recorded: these runs kept accuracies per group, not their answers to single "
            "questions."
        )
        return
    sources = sorted({str(run.config.evaluation.questions) for run in recorded})
    source = (
        st.selectbox("Question file", sources, key="compare_questions")
        if sources[1:]
        else sources[0]
    )
    if not is_bundled(source) and not _revealed():
        return
    try:
        questions = list(enumerate(load_questions(source)))
    except TraceError as error:
        st.warning(wording.plain(str(error)), icon=":material/warning:")
        return
    groups = sorted({question.category for _, question in questions})
    group = st.selectbox("Group", groups, key="compare_group")
    offered = {
        number: question
        for number, question in questions
        if question.category == group and any(_knows(run, number) for run in recorded)
    }
    # First those that most runs were asked: a run with few questions has answers to show, too.
    first = sorted(offered, key=lambda number: -sum(_knows(run, number) for run in recorded))
    chosen = st.multiselect(
        "Questions",
        list(offered),
        default=sorted(first[:5]),
        format_func=lambda number: offered[number].question,
        key="compare_asked",
    )
    tables.show(
        answers_frame([(number, offered[number]) for number in chosen], runs, labels),
        "answers",
        alt="One line per question and run: the answer before and after unlearning.",
    )


def _revealed() -> bool:
    """Whether questions of the user's own file may be shown; draws the button where not yet."""
    if words.text_revealed() or st.session_state.get(_REVEALED):
        return True
    st.info(
        "These questions come from your own file and may be hazardous. They stay hidden until you "
        "reveal them; that holds for this session.",
        icon=":material/visibility_off:",
    )
    st.button("Reveal the questions", key="prompts_reveal", on_click=_reveal)
    return False


def _reveal() -> None:
    st.session_state[_REVEALED] = True


def _knows(run: StoredRun, number: int) -> bool:
    recorded = picked(run)
    return recorded is not None and str(number) in recorded[0]
