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


def bounds(row: dict[str, Any], form: str = ".3f") -> str:
    return f"[{row['low']:{form}}, {row['high']:{form}}]"


def test_every_test_has_its_sentence_with_figures_n_and_what_it_does_not_show() -> None:
    made = rerouted_figures(stored(), 0)
    rows, found = made["figures"], made["sentences"]
    assert set(found) == {"overlap", "restored", "forced", "probing"}
    kept = only(rows, figure=KEPT, on=FORGET)
    assert found["overlap"] == (
        "In layer 3, where it moved most, routing of the forget questions keeps 0.500 "
        f"{bounds(kept)} of a token's experts, that of other questions 1.000 [1.000, 1.000] (n=4 "
        "and 2 questions). This shows how far routing moved, not whether knowledge went with it."
    )
    plain = only(rows, test="plain", figure=RIGHT, on=FORGET, model="model")
    treated = only(rows, test="restored", figure=RIGHT, on=FORGET)
    change = only(rows, test="restored", figure=CHANGE, on=FORGET)
    assert found["restored"] == (
        f"With the start model's routers 0.750 {bounds(treated)} of the forget questions are "
        f"answered rightly instead of 0.250 {bounds(plain)}: a change of +0.500 "
        f"{bounds(change, '+.3f')} (n=4, p = 0.500), 0.667 (no interval) of what was lost. This "
        "shows how much of the forgetting sits in the routers, not that the rest is erased: the "
        "experts may hold it where the old routers do not lead."
    )
    assert found["forced"] == stored()["not_made"]["forced"]
    probed = {role: only(rows, figure=FOUND, model=role) for role in ("model", "before")}
    assert found["probing"] == (
        "From the audited model's state after a question, a linear probe that was not trained on "
        f"that question finds the answer of 0.500 {bounds(probed['model'])} of the forget "
        f"questions (layer 3, n=4); from that of the start model 0.750 {bounds(probed['before'])} "
        "(layer 3); from that of the reference 0.000 [0.000, 0.000] (layer 3). These are the best "
        "layer of each, which the intervals do not allow for. Above the reference, it shows "
        "information that is left in the hidden states; it does not show that the model would use "
        "it, and chance does not show that nothing is left, because the probe is linear."
    )


def test_what_came_back_has_an_interval_where_every_sample_lost_something() -> None:
    items = stored()
    items["right"][ROUTED["after"]] = "0000"
    made = rerouted_figures(items, 0)
    back = only(made["figures"], test="restored", figure=RETURNED)
    assert back["value"] == 0.75
    assert back["low"] < 0.75 < back["high"]
    assert f", 0.750 {bounds(back)} of what was lost." in made["sentences"]["restored"]


@pytest.mark.parametrize(
    ("forbidden", "experts"), [([[3, 1]], "1 expert"), ([[3, 1], [3, 2]], "2 experts")]
)
def test_forbidden_experts_are_counted_and_a_rise_is_told_apart_from_none(
    forbidden: list[list[int]], experts: str
) -> None:
    items = stored() | {"not_made": {}, "forbidden": forbidden}
    items["right"][ROUTED["forced"]] = "1000"
    items["utility"][ROUTED["forced"]] = "11"
    made = rerouted_figures(items, 0)
    plain = only(made["figures"], test="plain", figure=RIGHT, on=FORGET, model="model")
    assert made["sentences"]["forced"] == (
        f"With {experts} forbidden that forget questions use more than in the start model, 0.250 "
        f"{bounds(plain)} of the forget questions are answered rightly instead of 0.250 "
        f"{bounds(plain)}: a change of +0.000 [+0.000, +0.000] (n=4, p = 1.000). A rise shows "
        "knowledge that was routed around; no rise does not show that it is gone."
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
