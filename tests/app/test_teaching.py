"""Teaching mode: every page has its lesson, answers wait for a guess, and one glossary rules."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app import glossary, lessons, navigation, replay, state, teaching, traps
from app.theme import LIGHT
from tests.app.conftest import KEY
from tests.app.stored import eval_row, unlearn_config
from trace_engine.config import Cell
from trace_engine.routing import Profile

ROOT = Path(__file__).parents[2]
PAGES = [name for group in navigation.GROUPS.values() for name, _, _ in group]


def in_teaching_mode(app: AppTest) -> AppTest:
    app.session_state["teaching"] = True
    return app.run()


def test_docs_hold_the_same_glossary() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    assert text == glossary.to_markdown()


def test_words_are_unique_and_in_order() -> None:
    names = [term.name.lower() for term in glossary.TERMS]
    assert names == sorted(set(names))
    assert {page for term in glossary.TERMS for page in term.pages} <= set(PAGES)


def test_every_page_has_a_lesson_and_the_tour_five_steps() -> None:
    assert set(lessons.LESSONS) == set(PAGES)
    assert len(lessons.TOUR) == 5
    assert {stop.page for stop in lessons.TOUR} <= set(PAGES)


def test_the_panel_is_silent_when_the_mode_is_off(
    bundled: Profile, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("selection")
    assert not any("What you see" in text.value for text in app.markdown)
    app = in_teaching_mode(app)
    assert not app.exception
    assert any("What you see" in text.value for text in app.markdown)


@pytest.mark.parametrize("section", ["Predict", "Replay", "Tour", "Glossary"])
def test_sections_of_unlearn_draw(
    bundled: Profile, open_page: Callable[..., AppTest], section: str
) -> None:
    app = in_teaching_mode(open_page("unlearn"))
    app.session_state["_teach_section_unlearn"] = section
    app.run()
    assert not app.exception


def test_the_tour_advances_and_ends(bundled: Profile, open_page: Callable[..., AppTest]) -> None:
    app = in_teaching_mode(open_page("selection"))
    app.session_state["_teach_section_selection"] = "Tour"
    for step in range(5):
        app.session_state["_teaching_step"] = step
        app.run()
        assert any("Look for" in text.value for text in app.markdown)
    app.session_state["_teaching_step"] = 5
    app.run()
    assert not app.exception
    assert not any("Look for" in text.value for text in app.markdown)


def test_the_tour_takes_one_from_page_to_page(
    bundled: Profile, open_page: Callable[..., AppTest]
) -> None:
    app = in_teaching_mode(open_page("start"))
    app.session_state["_teach_section_start"] = "Tour"
    app.run()
    app.button(key="tour_next").click().run()
    assert not app.exception
    assert app.title[0].value == "What goes to this expert?"
    assert any("Read the tokens in context" in text.value for text in app.markdown)
    app.button(key="tour_back").click().run()
    assert app.title[0].value == "Which experts does the forget text use?"
    # Elsewhere the tour shows the way to its step instead of ticking it off.
    app.session_state["_teaching_step"] = 4
    app.run()
    assert app.button(key="tour_next").label == "Go to step 5"
    app.button(key="tour_next").click().run()
    assert app.title[0].value == "Which setting won, and why?"
    app.button(key="tour_next").click().run()
    assert not any("Look for" in text.value for text in app.markdown)
    app.button(key="tour_again").click().run()
    assert app.title[0].value == "Which experts does the forget text use?"
    assert not app.exception


def test_another_profile_asks_for_another_guess(
    bundled: Profile, open_page: Callable[..., AppTest]
) -> None:
    app = in_teaching_mode(open_page("start"))
    app.session_state["_teach_section_start"] = "Predict"
    app.run()
    next(button for button in app.button if button.label == "Reveal").click().run()
    assert any("rank" in text.value for text in app.markdown)
    state_of = app.session_state["_core"]
    state_of["profile"] = KEY
    app.run()
    assert not app.exception
    assert not any("rank" in text.value for text in app.markdown)


def test_an_open_prediction_holds_the_page_back() -> None:
    app = AppTest.from_function(predict_page, default_timeout=60)
    app.session_state["teaching"] = True
    app.session_state["_teach_section_start"] = "Predict"
    app.run()
    assert not app.exception
    assert [text.value for text in app.text] == []
    app.button[0].click().run()
    assert not app.exception
    assert [text.value for text in app.text] == ["the page"]


def predict_page() -> None:
    import streamlit as st

    from app import teaching

    teaching.panel("start")
    st.text("the page")


@pytest.fixture(autouse=True)
def _one_profile(bundled: Profile) -> None:
    """Every test here sees the small profile as the bundled one."""


def test_a_guess_is_ranked_among_all_cells(bundled: Profile) -> None:
    view = state.open_profile(state.BUNDLED)
    assert view is not None
    best = state.strongest_cell(view)
    assert "rank 1 of 24" in teaching.gap_answer(view, best)
    assert "There is no" in teaching.gap_answer(view, Cell(1, 99))


def test_utility_is_judged_by_how_far_it_fell() -> None:
    def run(end: float) -> replay.StoredRun:
        rows = (eval_row(0, 0.9, 0.9), eval_row(9, 0.3, end))
        return replay.StoredRun("id", "label", Path("nowhere"), unlearn_config(), rows)

    holds, some, much = teaching.UTILITY_GUESSES
    assert teaching.utility_answer(run(0.88), holds).startswith(f"**{holds}")
    assert teaching.utility_answer(run(0.85), holds).startswith(f"**{some}")
    # Pooled over 400 questions, 352 of them right.
    assert "0.90 → 0.88 (95\N{NO-BREAK SPACE}% CI 0.84 to 0.91, n = 400)" in (
        teaching.utility_answer(run(0.88), holds)
    )
    assert "Your guess was" in teaching.utility_answer(run(0.5), holds)
    assert teaching.utility_answer(run(0.5), much).endswith("That was your guess.")


def test_small_draws_scatter_more_than_large_ones(bundled: Profile) -> None:
    view = state.open_profile(state.BUNDLED)
    assert view is not None
    few, many = (traps.scatter(view, documents, 60, seed=0) for documents in (5, 60))
    assert few.high - few.low > many.high - many.low
    # Drawing every document is no draw at all.
    assert many.low == pytest.approx(many.full)
    assert many.agree == 1.0


def test_the_same_seed_draws_the_same_maps(bundled: Profile) -> None:
    first, again = (traps.resampled(bundled, 10, 2, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


def test_the_scale_trap_changes_nothing_but_the_scale(bundled: Profile) -> None:
    view = state.open_profile(state.BUNDLED)
    assert view is not None
    first, second = traps.scale_figure(view, LIGHT).data
    np.testing.assert_array_equal(first.z, second.z)
    assert first.zmax == pytest.approx(5 * second.zmax)
    for heat in (first, second):
        assert heat.showscale is not False
        assert list(heat.colorbar.tickvals) == pytest.approx([-heat.zmax, 0, heat.zmax])


def test_token_matching_is_shown_for_the_largest_gaps(bundled: Profile) -> None:
    view = state.open_profile(state.BUNDLED)
    assert view is not None
    table = traps.identity_frame(view, most=3)
    assert list(table["plain"]) == sorted(table["plain"], reverse=True)
    assert table["cell"][0] == state.cell_name(state.strongest_cell(view))


def test_replay_has_a_frame_per_evaluation() -> None:
    rows = [eval_row(0, 0.9, 0.9), eval_row(5, 0.5, 0.9), eval_row(9, 0.3, 0.85)]
    figure = replay.replay_figure(rows, "hazard", colours=LIGHT)
    assert [frame.name for frame in figure.frames] == ["0", "5", "9"]
    assert len(figure.frames[1].data[0].x) == 2
    assert len(figure.layout.sliders[0].steps) == 3
    assert len({line.line.dash for line in figure.data}) == 3


@pytest.mark.parametrize("chance", [0.5, None])
def test_the_replay_draws_the_recorded_chance(chance: float | None) -> None:
    rows = [eval_row(step, 0.9, 0.9, chance) for step in (0, 5)]
    lines = replay.replay_figure(rows, "hazard", colours=LIGHT).layout.shapes
    assert [line.y0 for line in lines] == ([] if chance is None else [chance])


def test_reset_leaves_nothing_behind(bundled: Profile, open_page: Callable[..., AppTest]) -> None:
    app = in_teaching_mode(open_page("selection", sel='{"top_k":1}'))
    app.session_state["_teach_section_selection"] = "Tour"
    app.session_state["_teaching_step"] = 3
    app.run()
    next(button for button in app.button if button.label == "Reset everything").click().run()
    assert not app.exception
    assert "sel" not in app.query_params
    assert app.session_state["teaching"] is False
    assert "_teaching_step" not in app.session_state


def test_set_names_cannot_carry_markup() -> None:
    assert teaching._plain("<b>*x*</b>") == " b  x   b "
