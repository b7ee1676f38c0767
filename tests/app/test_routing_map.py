"""Routing map: one locked scale, order within a layer, controls, and the table beside the map."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from app import maps, state, wording
from tests.app.conftest import KEY
from tests.support.profiles import synthetic_profile
from trace_engine.config import Cell
from trace_engine.errors import InputError
from trace_engine.routing import Profile

OpenPage = Callable[..., AppTest]


@pytest.fixture
def view(bundled: Profile) -> state.ProfileView:
    opened = state.open_profile(KEY)
    assert opened is not None
    return opened


def test_forget_and_retain_share_one_scale(view: state.ProfileView) -> None:
    assert maps.limit(view, "forget", "measured") == maps.limit(view, "retain", "measured")
    largest = 100 * max(view.mismatch.forget.max(), view.mismatch.retain.max())
    assert maps.limit(view, "forget", "measured") == pytest.approx(largest)


def test_controls_keep_the_measured_scale_and_have_no_dots(view: state.ProfileView) -> None:
    measured = maps.map_spec(view)
    null = maps.map_spec(view, control="null")
    assert null.limit == measured.limit
    assert null.significant_LE is None
    assert measured.significant_LE is not None
    np.testing.assert_allclose(null.values_LE, 100 * view.mismatch.null_difference)


def test_a_ratio_map_names_the_cell_with_the_surest_ratio(view: state.ProfileView) -> None:
    row, expert = np.unravel_index(view.mismatch.ratio_low.argmax(), view.mismatch.forget.shape)
    name = state.cell_name((view.profile.layers[row], int(expert)))
    assert name in maps.heading(view, "ratio", "measured")
    assert name in maps.heading(view, "ratio", "matched")


def test_the_random_split_has_no_ratio(view: state.ProfileView) -> None:
    assert not maps.has_control("ratio", "null")
    with pytest.raises(InputError, match="no ratio map"):
        maps.values_LE(view, "ratio", "null")


def test_sorting_by_gap_puts_the_largest_first_in_every_layer(view: state.ProfileView) -> None:
    order_LE = maps.order_LE(view.profile, "gap", view.mismatch.difference)
    assert order_LE is not None
    ranked = np.take_along_axis(view.mismatch.difference, order_LE, axis=1)
    assert (np.diff(ranked, axis=1) <= 0).all()


@pytest.mark.parametrize("experts", [2, 8])
def test_cluster_is_a_permutation_of_each_layer(experts: int) -> None:
    profile = synthetic_profile(
        experts=experts, top_k=2, documents=12, planted=() if experts == 2 else None
    )
    order_LE = maps.order_LE(profile, "cluster", np.zeros((4, experts)))
    assert order_LE is not None
    assert (np.sort(order_LE, axis=1) == np.arange(experts)).all()


def test_the_screen_table_is_in_percent_and_sorted(view: state.ProfileView) -> None:
    screen, full = maps.screen_table(view), maps.table(view)
    assert len(screen) == len(full) == int(view.profile.cell_mask_LE().sum())
    assert screen["difference"].is_monotonic_decreasing
    assert screen["forget"].max() == pytest.approx(100 * full["forget"].max())
    assert set(maps.columns()) == set(screen.columns)


@pytest.mark.parametrize("what", ["difference", "ratio", "forget", "retain"])
def test_every_view_renders(bundled: Profile, open_page: OpenPage, what: str) -> None:
    app = open_page("routing_map", view=what, order="cluster")
    assert not app.exception
    assert len(app.get("plotly_chart")) == 1
    assert len(app.dataframe) == 1


def test_the_view_is_kept_in_the_url_and_across_pages(
    bundled: Profile, open_page: OpenPage
) -> None:
    app = open_page("routing_map", view="retain")
    assert app.query_params["view"] == "retain"
    app.switch_page("pages/expert.py").run()
    app.switch_page("pages/routing_map.py").run()
    assert app.session_state["view"] == "retain"


def test_a_control_that_the_view_lacks_falls_back_to_measured(
    bundled: Profile, open_page: OpenPage
) -> None:
    app = open_page("routing_map", view="forget", control="null")
    assert not app.exception
    assert "'control' was refused" in app.warning[0].value.replace("\\", "")


def test_number_inputs_move_the_focus(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("routing_map")
    app.number_input(key="cell_layer").set_value(3).run()
    app.number_input(key="cell_expert").set_value(2).run()
    assert any("layer 3, expert 2," in text.value for text in app.markdown)


def test_nothing_on_the_page_claims_knowledge(bundled: Profile, open_page: OpenPage) -> None:
    app = open_page("routing_map")
    shown = " ".join(e.value for e in [*app.markdown, *app.caption]).lower()
    assert "holds the knowledge" not in shown
    assert "not where knowledge is stored" in shown


def test_the_caption_says_when_blocks_were_resampled(view: state.ProfileView) -> None:
    assert "blocks" not in maps.describe(view, "difference", "measured")
    by_block = replace(view.mismatch, blocks_forget=900, blocks_retain=1_024)
    told = maps.describe(replace(view, mismatch=by_block), "difference", "measured")
    assert f"999 permutations of {wording.count(1_924)} blocks of documents" in told


def test_a_large_maps_figure_is_the_same_from_click_to_click(
    view: state.ProfileView, monkeypatch: pytest.MonkeyPatch
) -> None:
    strongest, clicked, typed = state.strongest_cell(view), Cell(0, 3), Cell(0, 4)
    memory: dict[str, object] = {}
    monkeypatch.setattr(maps.st, "session_state", memory)
    monkeypatch.setattr(state, "set_cell", lambda cell: None)
    assert maps.outlined(view, strongest) == strongest
    assert "dark square" not in maps.legend(view)
    monkeypatch.setattr(maps.charts, "is_large", lambda sites, experts: True)
    memory["map"] = {"selection": {"points": [{"customdata": [0, 3]}]}}
    assert maps.outlined(view, clicked) == clicked
    maps.on_click("map")
    assert maps.outlined(view, strongest) is maps.outlined(view, clicked) is None
    # A cell from the number fields or a link is nobody's click: the figure says where it is.
    assert maps.outlined(view, typed) == typed
    assert "dark square" in maps.legend(view)
