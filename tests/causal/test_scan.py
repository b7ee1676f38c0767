"""Scans and ablations of tiny models: what they report, and that a resumed scan is the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.causal.cases import opened, questions
from trace_engine.causal import Ablation, Examination, Load, Scan, ablate, profile_load, scan
from trace_engine.causal.load import nearest_in_load, random_sets
from trace_engine.causal.paired import holm
from trace_engine.causal.store import CellStore, questions_key
from trace_engine.config import Cell
from trace_engine.disk import strict
from trace_engine.errors import InputError
from trace_engine.models import OpenModel
from trace_engine.progress import Progress
from trace_engine.routing import Profile

FAST = {"permutations": 99}


def text(found: Scan | Ablation) -> str:
    return json.dumps(strict(found.to_dict()), sort_keys=True)


def test_what_stands_before_a_question_is_part_of_what_was_asked() -> None:
    plain = questions()
    described = [replace(question, description="Now:\n") for question in plain]
    assert questions_key(described) != questions_key(plain)
    # Answers that were kept before there was such a thing are still found.
    rows = [[q.question, list(q.choices), q.answer, q.category] for q in plain]
    kept = json.dumps(rows, ensure_ascii=False).encode()
    assert questions_key(plain) == hashlib.sha256(kept).hexdigest()


def test_every_cell_is_measured_and_tested() -> None:
    model = opened()
    found = scan(model, questions(), permutations=999)
    assert [(cell.layer, cell.expert) for cell in found.cells] == [
        (layer, expert) for layer in range(2) for expert in range(8)
    ]
    examination = Examination(model, questions())
    for cell in found.cells:
        after = examination.without([cell.cell])
        moved = (after.loss_N - examination.answers.loss_N)[:6]
        assert cell.forget.loss.change == pytest.approx(moved.mean(), abs=1e-12)
        assert cell.forget.loss.p <= cell.forget.loss.p_corrected
        assert (cell.forget.n, cell.utility.n) == (6, 12)
        assert cell.specific.value == pytest.approx(
            cell.forget.loss.change - cell.utility.loss.change
        )
        assert cell.band.n == 15
    assert len(found.table()) == 16


def test_an_expert_without_tokens_has_effect_zero_and_p_one() -> None:
    found = scan(opened(experts=64, top_k=1), questions(), **FAST)
    unused = [cell for cell in found.cells if cell.tokens == 0]
    assert unused
    for cell in unused:
        for effect in (cell.forget, cell.utility):
            assert (effect.loss.change, effect.loss.p, effect.accuracy.change) == (0.0, 1.0, 0.0)


class Stop(Exception):
    pass


def stopping_after(cells: int):  # type: ignore[no-untyped-def]
    def report(progress: Progress) -> None:
        if progress.unit == "experts" and progress.done >= cells:
            raise Stop

    return report


def test_a_stopped_scan_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    whole = scan(opened(), questions(), folder=tmp_path / "a", **FAST)
    with pytest.raises(Stop):
        scan(opened(), questions(), folder=tmp_path / "b", report=stopping_after(5), **FAST)
    [kept] = (tmp_path / "b").iterdir()
    assert len(list(kept.glob("*expert*.json"))) == 5
    done: list[int] = []
    resumed = scan(
        opened(),
        questions(),
        folder=tmp_path / "b",
        report=lambda p: done.append(p.total) if p.unit == "experts" else None,
        **FAST,
    )
    assert max(done) == 11
    assert text(resumed) == text(whole)
    names = sorted(path.name for path in kept.iterdir())
    [first] = (tmp_path / "a").iterdir()
    assert names == sorted(path.name for path in first.iterdir())
    assert all((kept / name).read_bytes() == (first / name).read_bytes() for name in names)


def test_a_scan_that_was_done_computes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = scan(opened(), questions(), folder=tmp_path, **FAST)
    monkeypatch.setattr(Examination, "without", lambda *args: pytest.fail("computed something"))
    assert text(scan(opened(), questions(), folder=tmp_path, **FAST)) == text(whole)


def test_a_damaged_cell_is_measured_again(tmp_path: Path) -> None:
    whole = scan(opened(), questions(), folder=tmp_path, **FAST)
    [kept] = tmp_path.iterdir()
    path = CellStore(kept).path(Cell(1, 3))
    good = path.read_bytes()
    path.write_bytes(good.replace(b'"n": 18', b'"n": 17'))
    assert text(scan(opened(), questions(), folder=tmp_path, **FAST)) == text(whole)
    assert path.read_bytes() == good


def test_other_questions_models_and_modes_have_other_folders(tmp_path: Path) -> None:
    one = [Cell(0, 0)]
    for model, asked, mode in (
        (opened(), questions(), "drop"),
        (opened(), questions(), "reroute"),
        (opened(), questions(seed=1), "drop"),
        (opened(seed=1), questions(), "drop"),
    ):
        scan(model, asked, mode=mode, cells=one, folder=tmp_path, **FAST)  # type: ignore[arg-type]
    assert len(list(tmp_path.iterdir())) == 4


def test_results_survive_json() -> None:
    found = scan(opened(), questions(), **FAST)
    read = Scan.from_dict(json.loads(text(found)))
    assert read == found
    ablated = ablate(opened(), questions(), [Cell(0, 1), Cell(1, 2)], draws=4, **FAST)
    assert Ablation.from_dict(json.loads(text(ablated))) == ablated
    with pytest.raises(InputError, match="found 'ablation'"):
        Scan.from_dict(ablated.to_dict())
    with pytest.raises(InputError, match="newer version"):
        Scan.from_dict(found.to_dict() | {"schema": 99})
    with pytest.raises(InputError, match="damaged"):
        Scan.from_dict({"schema": 1, "what": "scan"})


def alone(model: OpenModel, cell: Cell) -> None:
    """Zero the output of every other expert of the layer, so that nothing hangs on them."""
    with torch.no_grad():
        down = model.sites[cell.layer].module.get_parameter("down_proj")
        others = [e for e in range(len(down)) if e != cell.expert]
        down[others] = 0


def test_a_set_that_matters_stands_beside_random_sets_that_do_not() -> None:
    model = opened(experts=16)
    cell = Cell(0, int(Examination(model, questions()).tokens_LE[0].argmax()))
    alone(model, cell)
    found = ablate(model, questions(), [cell], draws=10, **FAST)
    assert len(found.random) == 10
    assert all(cell not in drawn.cells for drawn in found.random)
    assert all(drawn.cells[0].layer == 0 for drawn in found.random)
    assert {drawn.harm["forget_loss"] for drawn in found.random} == {0.0}
    band = found.bands["forget_loss"]
    assert band.value == found.effect("forget").loss.change != 0.0
    assert (band.low, band.high) == (0.0, 0.0)
    assert found.effect("utility").n == 12
    assert [effect.group for effect in found.effects] == ["forget", "utility", "general", "near"]
    assert "hazard" in found.sentence


def test_one_ablations_p_is_corrected_over_its_groups_and_both_figures() -> None:
    found = ablate(opened(), questions(), [Cell(0, 2)], draws=0, **FAST)
    changes = [change for effect in found.effects for change in (effect.accuracy, effect.loss)]
    assert len(changes) == 8
    assert [change.p_corrected for change in changes] == pytest.approx(
        holm(np.array([change.p for change in changes])).tolist()
    )
    data = found.to_dict()
    for effect in data["effects"]:
        for name in ("accuracy", "loss"):
            # As earlier versions wrote it.
            effect[name]["p_corrected"] = effect[name]["p"]
    assert Ablation.from_dict(data) == found


def test_the_sentence_says_what_random_sets_carry() -> None:
    found = ablate(opened(), questions(), [Cell(0, 2)], draws=5, **FAST)
    carried = [drawn.load for drawn in found.random]
    equal = sum(drawn.equal for drawn in found.random)
    assert (
        f"Of 5 random sets ({equal} of 5 within 10\N{NO-BREAK SPACE}% of its load of "
        f"{found.load:.3f}, all at {min(carried):.3f} to {max(carried):.3f})" in found.sentence
    )
    assert "like load" not in found.sentence


def test_the_band_counts_sets_that_do_as_much() -> None:
    found = ablate(opened(), questions(), [Cell(0, 2)], draws=5, **FAST)
    for name, band in found.bands.items():
        harms = [drawn.harm[name] for drawn in found.random]
        assert band.as_much == sum(harm >= band.value - 1e-12 for harm in harms)
        assert band.p == (1 + band.as_much) / 6


def test_no_expert_is_no_effect() -> None:
    found = ablate(opened(), questions(), [], **FAST)
    assert {effect.loss.change for effect in found.effects} == {0.0}
    assert not found.random


def test_questions_without_both_groups_are_refused() -> None:
    with pytest.raises(InputError, match="forget category 'poison'"):
        scan(opened(), questions(), forget_category="poison")
    hazard = [q for q in questions() if q.category == "hazard"]
    with pytest.raises(InputError, match="Every question"):
        scan(opened(), hazard)


def loaded(shares: list[list[float]]) -> Load:
    return Load((0, 3), (len(shares[0]), len(shares[1])), np.array(shares), "made up")


def test_random_sets_carry_as_much() -> None:
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.full(32, 5.0), size=2)
    load = Load((0, 3), (32, 32), shares, "made up")
    cells = [Cell(0, 1), Cell(0, 2), Cell(3, 4)]
    drawn = random_sets(load, cells, 20, seed=0)
    assert len({draw.cells for draw in drawn}) == 20
    for draw in drawn:
        assert sorted(cell.layer for cell in draw.cells) == [0, 0, 3]
        assert not set(draw.cells) & set(cells)
        assert draw.load == pytest.approx(load.of(draw.cells))
        assert draw.equal == (abs(draw.load - load.of(cells)) <= 0.1 * load.of(cells))
    assert all(draw.equal for draw in drawn)
    assert random_sets(load, cells, 20, seed=0) == drawn
    assert random_sets(load, cells, 20, seed=1) != drawn


def test_where_no_set_carries_as_much_the_nearest_are_taken_and_said() -> None:
    load = loaded([[0.7, 0.1, 0.1, 0.06, 0.04], [0.2] * 5])
    drawn = random_sets(load, [Cell(0, 0)], 20, seed=0)
    assert [draw.cells[0].expert for draw in drawn][2:] == [3, 4]
    assert len(drawn) == 4
    assert not any(draw.equal for draw in drawn)


def test_a_layer_without_enough_others_is_refused() -> None:
    load = loaded([[0.2] * 5, [0.2] * 5])
    with pytest.raises(InputError, match="Layer 3: 3 of 5"):
        random_sets(load, [Cell(3, 0), Cell(3, 1), Cell(3, 2)], 5, seed=0)


def test_nearest_in_load_crosses_layers() -> None:
    load = loaded([[0.5, 0.3, 0.2], [0.49, 0.31, 0.2]])
    cells = [Cell(layer, expert) for layer in (0, 3) for expert in range(3)]
    assert nearest_in_load(load, cells, 2)[0] == [3, 4]
    assert nearest_in_load(load, cells, 99)[2][0] == 5


def test_a_profiles_load_weighs_its_sides_alike(bundled_profile: Profile) -> None:
    load = profile_load(bundled_profile)
    assert load.share_LE.sum(axis=1) == pytest.approx(np.ones(len(load.layers)))
    counts = [bundled_profile.counts(side).counts_DLE.sum(axis=0) for side in ("forget", "retain")]
    by_hand = sum(c[1, 5] / c[1].sum() for c in counts) / 2
    assert load.share_LE[1, 5] == pytest.approx(by_hand)


@pytest.fixture(scope="module")
def bundled_profile() -> Profile:
    from trace_engine.bundled import PACK

    return Profile.load(PACK / "profile")
