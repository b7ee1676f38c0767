"""Figures of "erased, or re-routed" from stored routing, answers and probes, by hand."""

from typing import Any

import pytest

from tests.audit.cases import AUDIT
from trace_engine.audit.marks import attack_figures
from trace_engine.audit.rerouting import (
    CHANGE,
    FOUND,
    FURTHER,
    KEPT,
    RETURNED,
    RIGHT,
    ROUTED,
    rerouted_figures,
)
from trace_engine.audit.retold import retold
from trace_engine.audit.tables import csv_tables

FORGET, OTHERS = "forget questions", "other questions"


def stored() -> dict[str, Any]:
    """Four forget questions and two others, one layer moved."""
    return {
        "right": {
            ROUTED["before"]: "1111",
            ROUTED["after"]: "1000",
            ROUTED["reference"]: "0100",
            ROUTED["restored"]: "1110",
        },
        "utility": {
            ROUTED["before"]: "11",
            ROUTED["after"]: "11",
            ROUTED["reference"]: "11",
            ROUTED["restored"]: "10",
        },
        "layers": [3],
        "kept": {
            "forget": {"tokens": [2, 2, 4, 2], "kept": [[1.0, 2.0, 1.0, 1.0]]},
            "utility": {"tokens": [5, 5], "kept": [[5.0, 5.0]]},
        },
        "forbidden": [],
        "probed": {
            "before": {"3": "1110"},
            "model": {"3": "1100"},
            "reference": {"3": "0000"},
        },
        "not_made": {"forced": "Expert-forcing was not done: no expert gets more."},
    }


def only(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    (row,) = (row for row in rows if all(row[name] == value for name, value in wanted.items()))
    return row


def test_overlap_counts_tokens_and_its_interval_questions() -> None:
    rows = rerouted_figures(stored(), 0)["figures"]
    forget = only(rows, test="overlap", figure=KEPT, on=FORGET)
    assert (forget["value"], forget["n"], forget["layer"]) == (0.5, 4, 3)
    # Of resampled questions no share is below that of the third, or above that of the second.
    assert 0.25 <= forget["low"] < 0.5 < forget["high"] <= 1.0
    assert forget["method"] == "bootstrap over questions"
    others = only(rows, test="overlap", figure=KEPT, on=OTHERS)
    assert (others["value"], others["low"], others["high"]) == (1.0, 1.0, 1.0)


def test_what_other_routing_changes_is_paired_with_the_model_as_it_is() -> None:
    rows = rerouted_figures(stored(), 0)["figures"]
    assert only(rows, test="plain", figure=RIGHT, on=FORGET, model="model")["value"] == 0.25
    assert only(rows, test="restored", figure=RIGHT, on=FORGET)["value"] == 0.75
    change = only(rows, test="restored", figure=CHANGE, on=FORGET)
    assert (change["value"], change["n"], change["p"]) == (0.5, 4, 0.5)  # 2 gained, none lost
    assert change["method"] == "bootstrap over questions, paired"
    assert change["low"] < 0.5 < change["high"]
    lost = only(rows, test="restored", figure=CHANGE, on=OTHERS)
    assert (lost["value"], lost["p"]) == (-0.5, 1.0)
    back = only(rows, test="restored", figure=RETURNED)
    assert back["value"] == pytest.approx(2 / 3)
    assert not [row for row in rows if row["test"] == "forced"]


def test_a_probe_is_compared_with_the_other_models_question_by_question() -> None:
    rows = rerouted_figures(stored(), 0)["figures"]
    assert only(rows, figure=FOUND, model="model")["value"] == 0.5
    assert only(rows, figure=FURTHER["reference"])["value"] == 0.5
    assert only(rows, figure=FURTHER["before"])["value"] == -0.25


def test_every_test_has_its_sentence_with_figures_n_and_what_it_does_not_show() -> None:
    found = rerouted_figures(stored(), 0)["sentences"]
    assert set(found) == {"overlap", "restored", "forced", "probing"}
    assert found["forced"] == stored()["not_made"]["forced"]
    for name in ("overlap", "restored", "probing"):
        assert " not " in found[name]
        assert "n=" in found[name]
        assert "[" in found[name]
    assert "instead of 0.250 [" in found["restored"]
    assert (
        "0.667 (no interval) of what was lost" in found["restored"]
        or "0.667 [" in (found["restored"])
    )


def test_figures_of_an_older_report_are_not_invented() -> None:
    items = stored()
    del items["kept"]
    assert rerouted_figures(items, 0) == {}
    made = attack_figures("rerouted", AUDIT, items)
    assert set(made) == {"rows", "excess"}


def test_report_and_table_show_every_figure() -> None:
    summary = attack_figures("rerouted", AUDIT, stored()) | {
        "probing": {
            "layers": [{"layer": 3, "after": {"value": 0.5}, "shuffled": 0.25,
                        "shuffled_high": 0.3}],
            "shuffles": 200, "p_before": 0.0004, "p_after": 0.01, "p_reference": 0.5,
        },
    }  # fmt: skip
    tests = {one.test: one for one in retold(summary)}
    assert tests["overlap"].rows == (
        ("3", *(cell for on in (FORGET, OTHERS) for cell in _shown(summary, on))),
    )
    assert [row[0] for row in tests["restored"].rows] == [FORGET, OTHERS]
    assert len(tests["restored"].header) == len(tests["restored"].rows[0]) == 8
    # The page makes columns of them, which may not fall together.
    assert all(len(set(one.header)) == len(one.header) for one in tests.values())
    assert not tests["forced"].rows
    assert "start model p < 0.001" in tests["probing"].sentences[1]
    report = {"parts": {"rerouted": {"done": True, "summary": summary}}}
    lines = csv_tables(report)["rerouted.csv"].splitlines()
    assert lines[0].replace('"', "") == ("test,figure,model,on,layer,value,low,high,n,method,p")
    assert len(lines) == 1 + len(summary["figures"])


def _shown(summary: dict[str, Any], on: str) -> tuple[str, str]:
    row = only(summary["figures"], test="overlap", on=on)
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]", str(row["n"])
