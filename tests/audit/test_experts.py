"""Gap and ablation of an expert in one row, and an expert that was not taken out says so."""

import csv
from typing import Any

from trace_engine.audit.experts import (
    EFFECTS,
    SHOWN,
    expert_rows,
    selected_experts,
    told_ablation,
    told_where,
)
from trace_engine.audit.page import render
from trace_engine.audit.run import Audited


def mapped(experts: int) -> dict[str, Any]:
    """A map of one layer, whose gaps fall with the expert's number."""
    cells = [
        {
            "layer": 0, "expert": e, "forget": 0.5, "retain": 0.1, "difference": 0.4 - 0.01 * e,
            "low": 0.1, "high": 0.6, "p_max": 0.01, "q_bh": 0.01, "null_difference": 0.0,
            "matched_difference": 0.2,
        }
        for e in range(experts)
    ]  # fmt: skip
    return {"documents": {"forget": 20, "retain": 24}, "cells": cells}


def taken_out(*experts: int) -> dict[str, Any]:
    effects = {name: 0.25 for name in EFFECTS if name not in ("n_forget", "n_utility")}
    cells = [{"layer": 0, "expert": e, "n_forget": 6, "n_utility": 12} | effects for e in experts]
    return {"role": "before", "cells": cells}


def test_a_row_holds_the_gap_and_what_hangs_on_it() -> None:
    parts = {"routing": {"before": mapped(4), "model": mapped(4)}, "causal": taken_out(1)}
    rows = {(row["model"], row["expert"]): row for row in expert_rows(parts)}
    assert len(rows) == 8
    own = rows["before", 1]
    assert (own["difference"], own["n_forget_documents"], own["n_retain_documents"]) == (
        0.39, 20, 24,
    )  # fmt: skip
    assert own["ablated"]
    assert (own["forget_loss"], own["utility_loss_p_corrected"], own["n_utility"]) == (
        0.25, 0.25, 12,
    )  # fmt: skip
    # Not taken out is not an effect of 0.
    for other in (rows["before", 0], rows["model", 1]):
        assert not other["ablated"]
        assert {other[name] for name in EFFECTS} == {None}


def test_the_largest_gaps_are_shown_and_whatever_was_taken_out() -> None:
    last = SHOWN + 5
    parts = {"routing": {"before": mapped(last + 1)}, "causal": taken_out(0, last)}
    shown = [row["expert"] for row in selected_experts(parts)]
    assert shown == [*range(SHOWN), last]
    said = told_ablation("before", parts, "")
    assert f"2 of these {SHOWN + 1} were taken out" in said
    assert "6 forget questions and 12 others" in said
    assert "The others were not taken out" in said


def test_it_is_said_where_nothing_was_taken_out() -> None:
    parts = {"routing": {"before": mapped(2), "model": mapped(2)}}
    why = "left out by the settings"
    assert f"No expert was taken out ({why})" in told_ablation("before", parts, why)
    parts["causal"] = taken_out(0, 1)
    assert "No expert of the audited model was taken out" in told_ablation("model", parts, "")
    assert "The others" not in told_ablation("before", parts, "")


def test_experts_without_a_map_keep_their_effects() -> None:
    (row,) = selected_experts({"causal": taken_out(3)})
    assert (row["expert"], row["difference"], row["forget_accuracy"]) == (3, None, 0.25)


def test_the_report_joins_them_in_page_table_and_json(finished: Audited) -> None:
    parts = finished.report["parts"]
    effects = {(row["layer"], row["expert"]): row for row in parts["causal"]["summary"]["cells"]}
    rows = [row for row in finished.report["experts"] if row["ablated"]]
    assert {(row["layer"], row["expert"]) for row in rows} == set(effects)
    for row in rows:
        assert row["model"] == "before"
        assert row["forget_loss_low"] == effects[row["layer"], row["expert"]]["forget_loss_low"]
    with (finished.folder / "tables/experts.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == sum(len(m["cells"]) for m in parts["routing"]["summary"].values())
    marked = [row for row in table if row["ablated"] == "True"]
    assert len(marked) == len(rows) == 3
    assert all(row["forget_loss"] and row["utility_loss_p_corrected"] for row in marked)
    assert not any(row["forget_loss"] for row in table if row["ablated"] == "False")
    page = (finished.folder / "report.html").read_text("utf-8")
    section = page.partition("Where is it?")[2].partition("<h2>")[0]
    assert "3 of these 16 were taken out" in section
    assert section.count("not taken out</td>") == 4 * 13
    assert "No expert of the audited model was taken out" in section


def alone(expert: int, p: float, specific: float, low: float, band: float | None) -> dict[str, Any]:
    return {
        "layer": 1, "expert": expert, "n_forget": 100, "n_utility": 300, "band_p": band,
        "forget_loss_p_corrected": p, "specific": specific, "specific_low": low,
    }  # fmt: skip


def test_in_which_experts_is_said_as_far_as_it_was_tried() -> None:
    cells = [
        alone(2, 0.001, 0.055, 0.02, 0.04),
        alone(5, 0.001, 0.09, 0.03, 0.2),
        alone(7, 0.001, 0.05, -0.01, 0.01),  # no more than the others lose
        alone(9, 0.2, 0.08, 0.01, 0.01),  # not beyond chance
    ]
    many = [*cells, *(alone(n, 1.0, 0.0, -0.1, 0.5) for n in range(10, 26))]
    said = told_where({"role": "before", "cells": many}, "")
    assert "20 of the start model, those with the largest gaps, were taken out one by one" in said
    assert "(100 forget questions, 300 others)" in said
    assert "2 of them cost the forget questions more than the others" in said
    assert "L1 E5 (+0.090), L1 E2 (+0.055). 1 of these costs more than the experts nearest" in said
    assert said.endswith("Of experts that were not taken out nothing is known.")
    # Among four, no p can be 0.05 or less.
    few = told_where({"role": "before", "cells": cells}, "")
    assert "3 others taken out are too few to tell (causal.experts: 20 or more)." in few
    assert "nearest in load" not in few
    none = told_where({"role": "model", "cells": cells[2:]}, "")
    assert "None of them is shown to cost the forget questions more than the others." in none
    assert told_where(None, "left out") == "In which experts: not tested (left out)."


def test_the_answer_stands_beside_the_finding(finished: Audited) -> None:
    found = finished.report["parts"]["causal"]["summary"]
    told = told_where(found, "")
    assert told in render(finished.report)
    assert told not in render(finished.report | {"format": 4})
