"""The style control: the same cells against a second retain set, and the share of gap they keep."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.profiles import synthetic_profile
from trace_engine.errors import InputError
from trace_engine.routing import Mismatch, gap_kept, mismatch, same_style_gaps

QUICK = {"permutations": 99, "bootstrap": 150}


@pytest.fixture(scope="module")
def found() -> Mismatch:
    return mismatch(synthetic_profile(planted=[(1, 4), (6, 2)], layers=(1, 3, 6)), **QUICK)


def test_the_largest_gaps_come_first_and_keep_all_against_the_same_set(found: Mismatch) -> None:
    table = same_style_gaps(found, found)
    expected = found.table().sort_values("difference", ascending=False, kind="stable").head(6)
    for name, source in (("layer", "layer"), ("expert", "expert"), ("gap", "difference"),
                         ("gap_low", "low"), ("gap_high", "high")):  # fmt: skip
        np.testing.assert_array_equal(table[name], expected[source])
    np.testing.assert_array_equal(table["same_style"], table["gap"])
    assert {(1, 4), (6, 2)} == set(zip(table["layer"][:2], table["expert"][:2], strict=True))
    assert gap_kept(table) == 1.0


def test_only_the_first_maps_cells_count(found: Mismatch) -> None:
    """A gap that the second map has elsewhere is no part of what the first map's cells keep."""
    halved_LE = found.difference / 2
    halved_LE[1] = 9.0
    cells = same_style_gaps(found, replace(found, difference=halved_LE), most=2)
    assert gap_kept(cells) == pytest.approx(0.5)
    assert len(same_style_gaps(found, found, most=999)) == found.difference.size


def test_equal_gaps_break_by_layer_and_expert_and_absent_cells_never_count(
    found: Mismatch,
) -> None:
    flat = replace(found, difference=np.full_like(found.difference, 0.1), num_experts_L=(2, 8, 8))
    table = same_style_gaps(flat, flat, most=4)
    assert list(zip(table["layer"], table["expert"], strict=True)) == [
        *((1, 0), (1, 1)),
        *((3, 0), (3, 1)),
    ]


def test_other_models_and_no_gap_are_refused_in_a_sentence(found: Mismatch) -> None:
    with pytest.raises(InputError, match="other layers or experts"):
        same_style_gaps(found, replace(found, layers=(0, 1, 2)))
    level = mismatch(synthetic_profile(equal=True), **QUICK)
    with pytest.raises(InputError, match="no gap to compare"):
        gap_kept(same_style_gaps(level, level))
