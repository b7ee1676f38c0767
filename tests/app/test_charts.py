"""Figures: scales, marks, clicks, escaping, and files that are safe to open."""

import io
import json

import numpy as np
import pandas as pd
import pytest

from app import charts, tables
from app.theme import DARK, LIGHT
from trace_engine.config import Cell

HOVER = [[f"r{row} c{column}" for column in range(3)] for row in range(2)]
VALUES = np.array([[1.0, -4.0, 2.0], [0.0, 3.0, np.nan]])


def spec(**changes: object) -> charts.MapSpec:
    values: dict[str, object] = {
        "values_LE": VALUES,
        "layers": (2, 5),
        "kind": "difference",
        "title": "A finding",
        "limit": 4.0,
        "hover_LE": HOVER,
    }
    return charts.MapSpec(**(values | changes))  # type: ignore[arg-type]


def test_difference_is_symmetric_about_zero() -> None:
    heat = charts.expert_map(spec(), LIGHT).data[0]
    assert (heat.zmin, heat.zmid, heat.zmax) == (-4.0, 0, 4.0)
    assert heat.hoverinfo == "skip"


def test_share_scale_starts_at_zero_and_is_the_given_one() -> None:
    heat = charts.expert_map(spec(kind="share", limit=9.0), LIGHT).data[0]
    assert (heat.zmin, heat.zmax) == (0.0, 9.0)


def test_ratio_scale_is_cut_and_says_times() -> None:
    heat = charts.expert_map(spec(kind="ratio", limit=30.0), LIGHT).data[0]
    assert (heat.zmin, heat.zmax) == (-4.0, 4.0)
    assert heat.colorbar.ticktext[0] == "1/16×"
    assert heat.colorbar.ticktext[-1] == "16×"


def test_markers_carry_true_layer_and_expert_and_skip_missing_experts() -> None:
    markers = charts.expert_map(spec(), LIGHT).data[1]
    assert [list(map(int, pair)) for pair in markers.customdata] == [
        [2, 0],
        [2, 1],
        [2, 2],
        [5, 0],
        [5, 1],
    ]
    assert list(markers.hovertext) == ["r0 c0", "r0 c1", "r0 c2", "r1 c0", "r1 c1"]


def test_only_a_large_map_leaves_its_markers_to_webgl() -> None:
    # An element for each of 15,000 cells made a click take twelve seconds in the browser.
    for experts, kind in ((1024, "scatter"), (1025, "scattergl")):
        shape = (4, experts)
        large = spec(
            values_LE=np.zeros(shape),
            layers=(0, 1, 2, 3),
            hover_LE=[["x"] * experts] * 4,
            significant_LE=np.ones(shape, dtype=bool),
        )
        figure = charts.expert_map(large, LIGHT)
        assert [trace.type for trace in figure.data] == ["heatmap", kind, kind]
        assert len(figure.data[1].customdata) == 4 * experts
        # The browser marks a clicked cell by itself only where the figure is not drawn anew.
        assert figure.data[1].selected.marker.opacity == (1 if kind == "scattergl" else 0)
        assert figure.data[1].unselected.marker.opacity == 0


def test_a_sorted_map_moves_values_hover_and_cells_together() -> None:
    order_LE = np.array([[2, 0, 1], [1, 0, 2]])
    figure = charts.expert_map(spec(order_LE=order_LE, current=Cell(2, 2)), LIGHT)
    np.testing.assert_array_equal(figure.data[0].z[0], [2.0, 1.0, -4.0])
    assert list(figure.data[1].customdata[0]) == [2, 2]
    assert figure.data[1].hovertext[0] == "r0 c2"
    assert figure.layout.shapes[-1].path == "M-0.5,-0.5H0.5V0.5H-0.5Z"


def test_dots_outlines_and_the_bold_outline() -> None:
    figure = charts.expert_map(
        spec(
            significant_LE=np.array([[False, True, False], [False, False, False]]),
            selected=(Cell(2, 1), Cell(5, 2)),
            current=Cell(5, 0),
        ),
        LIGHT,
    )
    assert figure.layout.shapes[0].path == "M0.5,-0.5H1.5V0.5H0.5ZM1.5,0.5H2.5V1.5H1.5Z"
    assert [(x, y) for x, y in zip(figure.data[2].x, figure.data[2].y, strict=True)] == [(1, 0)]
    widths = [shape.line.width for shape in figure.layout.shapes]
    assert len(widths) == 3
    assert max(widths[1:]) > 1.5 * widths[0]


def test_a_cell_that_the_map_lacks_is_not_drawn() -> None:
    assert not charts.expert_map(spec(current=Cell(9, 0)), LIGHT).layout.shapes


def test_backgrounds_are_transparent_in_both_themes() -> None:
    for colours in (LIGHT, DARK):
        figure = charts.expert_map(spec(), colours)
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"


def test_titles_wrap_for_a_narrow_screen_and_are_escaped() -> None:
    text = charts.title("<img src=x> " + "long finding " * 8)["text"]
    assert "&lt;img src=x&gt;" in text
    assert max(len(line) for line in text.split("<br>")) <= charts.TITLE_WIDTH + 12


@pytest.mark.parametrize(
    "selection",
    [
        None,
        {},
        {"selection": {"points": []}},
        {"selection": {"points": [{"x": 1}]}},
        {"selection": {"points": [{"customdata": {"0": "a", "1": 2}}]}},
        {"selection": {"points": [{"customdata": [3]}]}},
    ],
)
def test_a_selection_that_names_no_cell_is_none(selection: object) -> None:
    assert charts.clicked_cell(selection) is None


def test_a_click_comes_back_as_a_cell() -> None:
    event = {"selection": {"points": [{"customdata": {"0": 5, "1": 1}}]}}
    assert charts.clicked_cell(event) == Cell(5, 1)


def test_limits() -> None:
    assert charts.symmetric_limit(VALUES) == 4.0
    assert charts.symmetric_limit(np.zeros((2, 2))) == 1.0
    assert charts.locked_limit(VALUES, np.array([7.0])) == 7.0


@pytest.mark.fault_row(24)
def test_html_is_one_file_without_a_network() -> None:
    page = charts.to_html(charts.expert_map(spec(), LIGHT)).decode()
    assert "<script src=" not in page
    assert "A finding" in page


@pytest.mark.fault_row(25)
def test_csv_defuses_formulas_and_leaves_numbers() -> None:
    table = pd.DataFrame(
        {"token": ["=1+1", "+a", "-b", "@c", "\td", "\re", "plain"], "gap": [-1.5] * 7}
    )
    text = tables.to_csv(table).decode("utf-8-sig")
    back = pd.read_csv(io.StringIO(text, newline=""), keep_default_na=False)
    assert all(value.startswith("'") for value in back["token"][:6])
    assert back["token"][6] == "plain"
    assert (back["gap"] == -1.5).all()


def test_csv_defuses_column_names() -> None:
    assert tables.to_csv(pd.DataFrame({"=x": [1]})).decode("utf-8-sig").startswith('"\'=x"')


def test_json_and_parquet_keep_text_as_it_is() -> None:
    table = pd.DataFrame({"token": ["=1+1"], "gap": [0.25]})
    assert json.loads(tables.to_json(table)) == [{"token": "=1+1", "gap": 0.25}]
    pd.testing.assert_frame_equal(pd.read_parquet(io.BytesIO(tables.to_parquet(table))), table)
