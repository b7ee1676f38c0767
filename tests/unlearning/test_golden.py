"""Golden loss curves: a refactor must leave the losses where they are.

Each file holds six updates of one method on the tiny seeded model. Tolerance is 1e-4 relative, so
that other CPUs and BLAS builds pass while a changed formula, order or normaliser does not. After
an intended change, write them anew with `python -m tests.unlearning.test_golden` and say in the
commit why they moved.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.unlearning.cases import tiny_config
from trace_engine.unlearning import Session, drive

GOLDEN = Path(__file__).parent / "golden"
CASES: dict[str, dict[str, Any]] = {
    f"{method}-{rule}": {
        "method": method,
        "weights": {"rule": rule} | ({"hardness": 0.5} if rule == "exact" else {}),
    }
    for method in ("graddiff", "npo")
    for rule in ("uniform", "exact")
}
EXACT = {"rule": "exact", "hardness": 0.5}
CASES |= {
    "rmu-exact": {"method": "rmu", "steering": 8.0, "weights": EXACT},
    # At its own beta of 4.5 the term is 5e-13 at this start: whatever it did would pass.
    "simnpo-exact": {"method": "simnpo", "beta": 0.5, "weights": EXACT},
    "wga-exact": {"method": "wga", "weights": EXACT},
    "satimp-exact": {"method": "satimp", "beta1": 0.5, "gamma": 8.0, "weights": EXACT},
    "undial-exact": {"method": "undial", "weights": EXACT},
    "dpo-exact": {"method": "dpo", "weights": EXACT},
    "ceu-exact": {"method": "ceu", "weights": EXACT},
    "idkdpo-exact": {"method": "idkdpo", "weights": EXACT},
    "seuf-exact": {"method": "graddiff", "weights": EXACT, "trainable": {"kind": "top_experts"}},
}
TRAIN = ("loss", "forget_loss", "retain_loss", "forget_nll", "retain_nll", "grad_norm")
TOLERANCE = 1e-4


def curve(folder: Path, name: str) -> dict[str, list[float]]:
    """Every number of the run that a changed formula would move."""
    rows: list[dict[str, Any]] = []
    with Session(tiny_config(folder, **CASES[name])) as session:
        drive(session, on_row=rows.append)
    train = [row for row in rows if row["kind"] == "train"]
    evaluated = [row for row in rows if row["kind"] == "eval"]
    found = {key: [row[key] for row in train] for key in (*TRAIN, "ess_share", "max_weight")}
    for side in ("forget_nll", "retain_nll"):
        found[f"held_out_{side}"] = [row[side]["value"] for row in evaluated]
    return found


@pytest.mark.parametrize("name", CASES)
def test_the_curve_is_where_it_was(tmp_path: Path, name: str) -> None:
    golden = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    found = curve(tmp_path, name)
    assert found.keys() == golden.keys()
    for key, values in golden.items():
        assert found[key] == pytest.approx(values, rel=TOLERANCE), key


def test_the_curves_differ_by_far_more_than_the_tolerance() -> None:
    """Otherwise a golden curve could not tell one method or weighting from another."""
    curves = [json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")) for name in CASES]
    for index, one in enumerate(curves):
        for other in curves[index + 1 :]:
            distance = max(
                abs(a - b) / abs(b) for a, b in zip(one["loss"], other["loss"], strict=True)
            )
            assert distance > 20 * TOLERANCE


def regenerate() -> None:
    """Write every golden file from the code as it is now."""
    GOLDEN.mkdir(exist_ok=True)
    for name in CASES:
        with tempfile.TemporaryDirectory() as folder:
            text = json.dumps(curve(Path(folder), name), indent=1)
        (GOLDEN / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"golden/{name}.json")


if __name__ == "__main__":
    regenerate()
