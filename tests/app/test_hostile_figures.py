"""Row 24, figures: plotly draws some HTML in whatever it shows, links among it, so no text of rows,
sets, tokens, runs or reports reaches a figure unescaped, on screen or in the file of a figure."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from app import bench_figure, charts, replay, state, sweep_figure
from app.audit_figure import excess_figure, training_figure
from app.theme import LIGHT
from tests.app.stored import eval_row, train_row, write_run
from trace_engine.audit.rules import Excess, RulesConfig
from trace_engine.evaluation.estimate import Estimate
from trace_engine.evaluation.outcome import Figure
from trace_engine.routing import Profile, mismatch
from trace_engine.sweeps import Outcome

EVIL = '<a href="javascript:a()">b</a><img src=//evil.example>'
"""Short, because a name of more than 60 characters is cut; a link is what plotly itself draws."""
OURS = re.compile(r"</?(?:b|i|sup|extra)>|<br>")
OpenPage = Callable[..., AppTest]


def texts(part: Any) -> Iterator[str]:
    """Every text in a figure, wherever it stands."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for key, value in part.items():
            yield from texts(key)
            yield from texts(value)
    elif isinstance(part, list | tuple | np.ndarray | pd.Series):
        for value in list(part):
            yield from texts(value)


def inert(figure: go.Figure) -> bool:
    """No markup but ours in any text. Returns whether hostile text is there, as text."""
    found = list(texts(figure.to_plotly_json()))
    for text in found:
        assert "<" not in OURS.sub("", text), text
    in_file = charts.to_html(figure).decode().rpartition("Plotly.newPlot")[2]
    assert "<a href" not in in_file
    assert "<img" not in in_file
    return any("&lt;a href" in text or "&lt;img" in text for text in found)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, go.Figure]:
    """Every figure that a page draws, by its name."""
    kept: dict[str, go.Figure] = {}
    draw = st.plotly_chart

    def keep(figure: go.Figure, **more: Any) -> Any:
        kept[more["key"]] = figure
        return draw(figure, **more)

    monkeypatch.setattr(st, "plotly_chart", keep)
    return kept


def hostile(drawn: dict[str, go.Figure]) -> set[str]:
    return {name for name, figure in drawn.items() if inert(figure)}


@pytest.mark.fault_row(24)
def test_set_names_and_tokens_in_figures_are_text(
    bundled: Profile,
    tmp_path: Path,
    open_page: OpenPage,
    monkeypatch: pytest.MonkeyPatch,
    drawn: dict[str, go.Figure],
) -> None:
    sets = {side: {"name": EVIL} for side in ("forget", "retain")}
    evil = replace(
        bundled,
        token_text=dict.fromkeys(bundled.token_text, EVIL),
        meta={**bundled.meta, "sets": sets, "model": {"source": EVIL}},
    )
    evil.save(tmp_path / "evil")
    mismatch(evil, permutations=99, bootstrap=100).save(tmp_path / "evil")
    monkeypatch.setattr(state, "BUNDLED_PATH", tmp_path / "evil")
    for page in ("start", "expert", "selection", "causal", "data_model"):
        assert not open_page(page).exception, page
    for view in ("difference", "ratio", "forget", "retain"):
        assert not open_page("routing_map", view=view).exception, view
        assert "routing_map" in hostile({view: drawn["routing_map"]} | drawn), view
    markers = [trace for trace in drawn["routing_map"].data if trace.hovertext is not None]
    assert all(text.count("&lt;a href") == 2 for trace in markers for text in trace.hovertext)
    assert {"routing_map", "selection_map"} <= hostile(drawn), sorted(drawn)


@pytest.mark.fault_row(24)
def test_names_and_groups_of_runs_in_figures_are_text(
    bundled: Profile, trace_home: Path, open_page: OpenPage, drawn: dict[str, go.Figure]
) -> None:
    def rows(forget: float) -> list[dict[str, Any]]:
        found = [eval_row(0, 0.8, 0.9), train_row(1), eval_row(2, forget, 0.85)]
        for row in found:
            if "accuracy" in row:
                row["accuracy"] = {
                    f"{EVIL[:50]}{n}>": of for n, of in enumerate(row["accuracy"].values())
                }
        return found

    category = next(iter(rows(0.3)[0]["accuracy"]))
    asked = {"evaluation": {"questions": "demo:questions/validation", "forget_category": category}}
    ids = [
        write_run(trace_home, rows(forget), name=EVIL, seed=seed, **asked).id
        for seed, forget in enumerate((0.3, 0.4))
    ]
    assert not open_page("compare", compare_runs=",".join(ids), compare_paths="yes").exception
    assert not open_page("unlearn", run=ids[0]).exception
    assert {"pareto", "drift_per_layer"} <= hostile(drawn), sorted(drawn)
    assert any(name.startswith("run") or "curve" in name for name in hostile(drawn)), sorted(drawn)
    assert inert(replay.replay_figure(rows(0.3), category, EVIL, LIGHT))


@pytest.mark.fault_row(24)
def test_what_a_report_says_is_text_in_its_figures(
    trace_home: Path, open_page: OpenPage, drawn: dict[str, go.Figure]
) -> None:
    """An audit folder that somebody brought."""
    kept = max((Path(__file__).parents[1] / "formats").glob("v*/audit"))
    folder = trace_home / "audits" / "20260101-000000-aaaaaa"
    shutil.copytree(kept, folder / "report")
    shutil.copy(folder / "report" / "audit.yaml", folder / "audit.yaml")
    (folder / "status.json").write_text('{"state": "done", "manifest_sha256": "f"}')
    path = folder / "report" / "report.json"

    def poisoned(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: EVIL if key == "test" else poisoned(value) for key, value in part.items()}
        return [poisoned(value) for value in part] if isinstance(part, list) else part

    path.write_text(json.dumps(poisoned(json.loads(path.read_text(encoding="utf-8")))))
    assert not open_page("audit", audit=folder.name).exception
    assert hostile(drawn), sorted(drawn)


@pytest.mark.fault_row(24)
@pytest.mark.parametrize("kind", ["sweep", "table", "test", "training", "bars"])
def test_other_figures_take_any_name(kind: str) -> None:
    at = Figure(0.5, 0.4, 0.6, 10)
    points = {"step": [0, 1], "value": [0.2, 0.3], "low": [0.1, 0.2], "high": [0.3, 0.4]}
    frame = pd.DataFrame(
        {"label": [EVIL], "role": ["trace"], "value": [0.1], "low": [0], "high": [1]}
    )
    outcome = Outcome(0, EVIL, {"weights.rule": EVIL}, None, "done", 1, at, at, True)
    judged = Excess(EVIL, "plain", "chance", Estimate(0.3, 0.2, 0.4, 60, "bootstrap"))
    figure = {
        "sweep": lambda: sweep_figure.sweep_figure(
            [outcome, replace(outcome, number=1)], "accuracy", heading=EVIL, colours=LIGHT
        ),
        "table": lambda: bench_figure.difference_figure(frame, EVIL, "difference", LIGHT),
        "test": lambda: excess_figure([judged], RulesConfig(), LIGHT),
        "training": lambda: training_figure(
            EVIL, [{"model": EVIL, "points": points}], 0.25, "the slice", LIGHT
        ),
        "bars": lambda: charts.share_bars(
            frame, label="label", series={EVIL: ("value", "#000000")}, heading=EVIL, unit="%",
            axis="share", colours=LIGHT,
        ),
    }[kind]()  # fmt: skip
    assert inert(figure)
