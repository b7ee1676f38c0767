"""The audit's figures show the report's own numbers, each beside the threshold that judges it."""

import plotly.graph_objects as go
import pytest

from app.audit_figure import excess_figure, training_figure
from app.theme import LIGHT
from trace_engine.audit.rules import Excess, RulesConfig, Yardstick
from trace_engine.evaluation.estimate import Estimate

RULES = RulesConfig(holds_above=0.1, gone_below=0.15, without_reference=0.2)


def judged(name: str, value: float, low: float | None, over: Yardstick) -> Excess:
    high = None if low is None else 2 * value - low
    return Excess(name, "plain", over, Estimate(value, low, high, 60, "bootstrap"))


def marks(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in figure.data if trace.mode == "markers"}


def lines(figure: go.Figure) -> dict[str, str]:
    return {trace.name: trace.line.dash for trace in figure.data if trace.mode == "lines"}


def test_every_test_stands_where_the_report_says() -> None:
    tests = [
        judged("plain <b>", 0.25, 0.2, "reference"),
        judged("routers put back", 0.5, 0.4, "itself"),
        judged("4 bits", -0.05, None, "reference"),
    ]
    figure = excess_figure(tests, RULES, LIGHT)
    filled, hollow = marks(figure).values()
    assert list(filled.x) == pytest.approx([25, -5])
    assert list(filled.error_x.arrayminus) == pytest.approx([5, 0])
    assert list(filled.error_x.array) == pytest.approx([5, 0])
    assert (list(hollow.x), hollow.marker.symbol) == ([50], "circle-open")
    # From the top in the report's order; names are text and never markup.
    assert list(figure.layout.yaxis.categoryarray)[::-1] == [
        "plain &lt;b&gt;", "routers put back", "4 bits",
    ]  # fmt: skip
    assert [shape.x0 for shape in figure.layout.shapes] == [0, 10, 20, 15]
    assert list(lines(figure)) == [
        "there: beyond 10, against a reference",
        "there: beyond 20, against the model as it is",
        "absent: below 15",
    ]


def test_without_a_reference_absence_has_no_line() -> None:
    figure = excess_figure([judged("plain", 0.3, 0.2, "chance")], RULES, LIGHT)
    assert [shape.x0 for shape in figure.layout.shapes] == [0, 20]
    assert list(lines(figure)) == ["there: beyond 20"]


def test_a_relearning_draws_the_audited_model_and_its_yardstick() -> None:
    def points(values: tuple[float, float]) -> list[dict[str, float]]:
        return [
            {"step": step, "value": value, "low": value - 0.1, "high": value + 0.1}
            for step, value in zip((0, 20), values, strict=True)
        ]

    figure = training_figure(
        "Relearning, all weights: answers not shown",
        [
            {"model": "model", "points": points((0.2, 0.9))},
            {"model": "reference", "points": points((0.2, 0.3))},
        ],
        0.25,
        "the slice",
        LIGHT,
    )
    assert figure.layout.xaxis.title.text == "optimizer updates on the slice"
    model, reference = figure.data
    assert (model.name, list(model.y), model.line.color) == (
        "audited model", [0.2, 0.9], LIGHT.forget,
    )  # fmt: skip
    assert (reference.name, list(reference.x)) == ("reference", [0, 20])
    assert reference.line.color != LIGHT.forget
    assert list(model.error_y.array) == pytest.approx([0.1, 0.1])
    assert figure.layout.shapes[0].y0 == 0.25
    assert "All weights: answers not shown" in figure.layout.title.text
