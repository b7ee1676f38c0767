"""One run in memory: its rows, its state bit for bit, its refusals, and TRACE as a special case
of nothing.
"""

import json
import math
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from tests.unlearning.cases import tiny_config, without_clock, write_questions
from trace_engine.config import ModelConfig, UnlearnConfig
from trace_engine.errors import (
    CalibrationError,
    InputError,
    NonFiniteLossError,
    RunError,
    TraceError,
)
from trace_engine.models import open_model
from trace_engine.progress import Progress
from trace_engine.routing import Profile
from trace_engine.sets import load_set, split_documents
from trace_engine.unlearning import Session, drive
from trace_engine.unlearning.facts import FEW_HELD_OUT, warnings_of

TRAINABLES = [
    pytest.param({"kind": "all"}, id="all"),
    pytest.param({"kind": "selected_experts"}, id="selected_experts"),
    pytest.param({"kind": "layers", "freeze_routers": True}, id="layers"),
    pytest.param({"kind": "lora", "lora_rank": 2}, id="lora"),
    pytest.param({"kind": "top_experts", "number": 2}, id="top_experts"),
]


def weights_of(session: Session) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in session.opened.model.state_dict().items()}


def run_to_end(config: UnlearnConfig) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    rows: list[dict[str, Any]] = []
    with Session(config) as session:
        assert drive(session, on_row=rows.append) == "done"
        return without_clock(rows), weights_of(session)


def assert_same_tensors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert different == []


@pytest.mark.parametrize("trainable", TRAINABLES)
@pytest.mark.parametrize("method", ["graddiff", "npo"])
def test_a_resumed_run_is_bitwise_an_uninterrupted_one(
    tmp_path: Path, trainable: dict[str, Any], method: str
) -> None:
    config = tiny_config(tmp_path, method=method, trainable=trainable, weight_decay=0.1)
    straight, weights = run_to_end(config)
    rows: list[dict[str, Any]] = []
    with Session(config) as first:
        drive(first, on_row=rows.append, should_stop=lambda: first.step == 3)
        tensors, data = first.state()
    # Through the formats a checkpoint uses, so that nothing else can carry state.
    tensors, data = load(save(tensors)), json.loads(json.dumps(data, allow_nan=False))
    with Session(config) as second:
        second.load_state(tensors, data)
        assert second.step == 3
        assert drive(second, on_row=rows.append) == "done"
        assert_same_tensors(weights_of(second), weights)
    assert without_clock(rows) == straight


def test_frozen_routing_resumes_too(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, weights={"rule": "exact", "routing": "frozen"})
    straight, _ = run_to_end(config)
    rows: list[dict[str, Any]] = []
    with Session(config) as first:
        drive(first, on_row=rows.append, should_stop=lambda: first.step == 2)
        tensors, data = first.state()
    with Session(config) as second:
        second.load_state(tensors, data)
        drive(second, on_row=rows.append)
    assert without_clock(rows) == straight


def test_a_taken_state_does_not_follow_the_training(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path)) as session:
        session.train_step()
        tensors, _ = session.state()
        kept = {name: value.clone() for name, value in tensors.items()}
        session.train_step()
        torch.testing.assert_close(tensors, kept, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("method", ["graddiff", "npo"])
def test_hardness_zero_is_bitwise_the_unweighted_method(tmp_path: Path, method: str) -> None:
    """method.md section 3, property 1, through the whole loop: kappa = 0 trains exactly as
    uniform.
    """
    exact = tiny_config(tmp_path, method=method, weights={"rule": "exact", "hardness": 0.0})
    uniform = tiny_config(tmp_path, method=method, weights={"rule": "uniform"})
    rows, weights = run_to_end(exact)
    plain_rows, plain_weights = run_to_end(uniform)
    assert_same_tensors(weights, plain_weights)
    for ours, theirs in zip(rows, plain_rows, strict=True):
        ours.pop("weighted_gap", None), theirs.pop("weighted_gap", None)
        assert ours == theirs


def test_exact_weights_change_the_run_and_narrow_the_gap(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, weights={"rule": "exact", "hardness": 0.5})
    rows, weights = run_to_end(config)
    _, plain = run_to_end(tiny_config(tmp_path, weights={"rule": "uniform"}))
    assert any(not torch.equal(weights[name], plain[name]) for name in weights)
    unmoved, _ = run_to_end(tiny_config(tmp_path, weights={"rule": "exact", "hardness": 0.0}))
    first, first_unmoved = rows[1], unmoved[1]
    assert first["weighted_gap"] < first_unmoved["weighted_gap"]
    assert first["ess_share"] < 1 < first["max_weight"]


@pytest.mark.parametrize("normalise", ["batch", "sequence"])
def test_weights_have_mean_one_where_the_mode_says(tmp_path: Path, normalise: str) -> None:
    settings = {"rule": "exact", "hardness": 0.5, "normalise": normalise}
    with Session(tiny_config(tmp_path, weights=settings)) as session:
        assert session.train_step()["mean_weight"] == pytest.approx(1, abs=1e-12)


def test_frozen_and_current_routing_agree_while_the_model_is_the_start_model(
    tmp_path: Path,
) -> None:
    rows = []
    for routing in ("current", "frozen"):
        weights = {"rule": "exact", "hardness": 0.5, "routing": routing}
        with Session(tiny_config(tmp_path, weights=weights)) as session:
            rows.append(without_clock([session.train_step()]))
    assert rows[0] == rows[1]


def test_only_the_selected_experts_change(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, trainable={"kind": "selected_experts"}, weight_decay=0.1)
    before = open_model(config.model).model.state_dict()
    with Session(config) as session:
        drive(session, on_row=lambda row: None)
        cells = set(session.selection.cells)
        after = weights_of(session)
    changed = set()
    for name, value in after.items():
        if torch.equal(value, before[name]):
            continue
        assert ".experts." in name
        layer = int(name.split(".")[2])
        for expert in range(value.shape[0]):
            if not torch.equal(value[expert], before[name][expert]):
                changed.add((layer, expert))
    assert changed == {tuple(cell) for cell in cells}


def test_rows_say_what_the_contract_says(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    rows, _ = run_to_end(config)
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("eval", 0),
        *[("train", step) for step in (1, 2, 3)],
        ("eval", 3),
        *[("train", step) for step in (4, 5, 6)],
        ("eval", 6),
    ]
    train, evaluation = rows[1], rows[0]
    assert train.keys() >= {
        "loss",
        "forget_loss",
        "retain_loss",
        "grad_norm",
        "ess_share",
        "mean_weight",
        "max_weight",
        "weighted_gap",
    }
    assert train["loss"] == pytest.approx(train["forget_loss"] + train["retain_loss"])
    assert [rows[n]["learning_rate"] for n in (1, 2, 3)] == [1e-3, 2e-3, 2e-3]
    assert evaluation["accuracy"] == {}
    assert evaluation["held_out"] is True
    _, held_out = split_documents(load_set(config.forget), 0.2, config.seed)
    assert evaluation["forget_nll"]["n"] == len(held_out) > 1
    assert evaluation["drift"]["overlap"] == [1.0, 1.0]
    assert all(share < 1 for share in rows[-1]["drift"]["overlap"])
    assert rows[-1]["forget_nll"]["value"] > evaluation["forget_nll"]["value"]
    json.dumps(rows, allow_nan=False)


def test_npo_starts_at_its_known_value(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path, method="npo", beta=0.1)) as session:
        row = session.train_step()
    # Reference and current NLL come from batches of another shape, so they agree to rounding only.
    assert row["forget_loss"] == pytest.approx(20 * math.log(2), rel=1e-5)


def test_with_questions_nothing_is_held_out_and_categories_are_scored(tmp_path: Path) -> None:
    questions = str(write_questions(tmp_path))
    config = tiny_config(tmp_path, evaluation={"questions": questions, "max_documents": 7})
    with Session(config) as session:
        row, facts = session.evaluate(), session.facts()
    assert row["held_out"] is False
    assert {name: found["n"] for name, found in row["accuracy"].items()} == {
        "general": 4,
        "hazard": 4,
    }
    assert {name: found["chance"] for name, found in row["accuracy"].items()} == {
        "general": 0.25,
        "hazard": 0.25,
    }
    assert row["forget_nll"]["n"] == 7
    assert facts["forget"]["trained_on"] == 24
    assert facts["questions"]["fingerprint"] == sha256(Path(questions).read_bytes()).hexdigest()
    assert facts["knowledge"]["measure"] == "accuracy"
    assert facts["knowledge"]["estimate"]["n"] == 4


def test_a_published_folder_is_asked_like_a_file(tmp_path: Path) -> None:
    """Two configurations of one split, as WMDP and MMLU are downloaded: each is a category."""
    lines = write_questions(tmp_path).read_text().splitlines()
    for name in ("hazard", "general"):
        rows = [json.loads(line) for line in lines if json.loads(line)["category"] == name]
        folder = tmp_path / "published" / name
        folder.mkdir(parents=True)
        kept = [{k: v for k, v in row.items() if k != "category"} for row in rows]
        (folder / "test.json").write_text(json.dumps(kept))
        (folder / "dev.json").write_text(json.dumps(kept[:1]))
    published = tiny_config(tmp_path, evaluation={"questions": str(tmp_path / "published")})
    with Session(published) as session:
        row, facts = session.evaluate(), session.facts()
    one_file = tiny_config(tmp_path, evaluation={"questions": str(tmp_path / "questions.jsonl")})
    with Session(one_file) as session:
        assert session.evaluate()["accuracy"] == row["accuracy"]
        other = session.facts()["questions"]
    assert facts["questions"]["counts"] == other["counts"] == {"general": 4, "hazard": 4}
    assert facts["questions"]["fingerprint"] != other["fingerprint"]
    (tmp_path / "published" / "hazard" / "test.json").write_text("[]")
    with pytest.raises(InputError, match=r"hazard/test\.json"):
        Session(published)


def test_held_out_documents_are_never_trained_on(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path)) as session:
        for side in (session.setup.forget, session.setup.retain):
            assert len(side.training) + len(side.measured) == 24
            tokenizer = session.opened.tokenizer
            trained = {
                tokenizer.decode(item.ids, skip_special_tokens=True) for item in side.training
            }
            assert trained.isdisjoint(document.text for document in side.measured)


def test_facts_are_json_and_complete(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path)) as session:
        facts = session.facts()
    json.dumps(facts, allow_nan=False)
    assert facts["trainable"]["parameters"] == facts["trainable"]["total"]
    assert facts["forget"]["documents"] == 24
    assert facts["forget"]["trained_on"] + facts["forget"]["measured_on"] == 24
    assert len(facts["selection"]["cells"]) == len(facts["weights"]["table"]) > 0
    assert 0 < facts["weights"]["diagnostics"]["ess_share"] <= 1
    assert facts["knowledge"]["sentence"]
    assert facts["threads"] == 1
    assert facts["overlap"]["count"] == 0


def test_few_held_out_documents_are_told_with_their_number() -> None:
    def told(forget: int, retain: int, held_out: bool = True) -> list[str]:
        sides = {"forget": {"measured_on": forget}, "retain": {"measured_on": retain}}
        return warnings_of({"held_out": held_out, **sides})

    assert told(FEW_HELD_OUT, FEW_HELD_OUT) == []
    assert told(1, 1, held_out=False) == []
    (both,) = told(1, 3)
    assert "measure the loss on: 1 forget (one document: no interval) and 3 retain. " in both
    (one,) = told(FEW_HELD_OUT, FEW_HELD_OUT - 1)
    assert "measure the loss on: 9 retain. " in one
    assert warnings_of({}) == []


def test_one_held_out_document_gives_a_loss_without_an_interval(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, max_steps=1)
    # Two documents a side: one trains, the other is measured on.
    for path in (Path(config.forget.source), Path(config.retain.source)):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with Session(config) as session:
        row, facts = session.evaluate(), session.facts()
    for side in ("forget", "retain"):
        found = row[f"{side}_nll"]
        assert (found["n"], found["low"], found["high"]) == (1, None, None)
        assert f"1 {side} (one document: no interval)" in warnings_of(facts)[-1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_loss_stops_before_the_update(tmp_path: Path, bad: float) -> None:
    with Session(tiny_config(tmp_path, method="graddiff")) as session:
        session.train_step()
        with torch.no_grad():
            session.opened.model.lm_head.weight[5, 0] = bad
        before = weights_of(session)
        with pytest.raises(NonFiniteLossError, match=r"loss became (NaN|infinite) at step 2"):
            session.train_step()
        assert session.step == 1
        torch.testing.assert_close(weights_of(session), before, rtol=0, atol=0, equal_nan=True)


def test_a_bad_gradient_stops_before_the_update(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path)) as session:
        name, parameter = next(iter(session.opened.model.named_parameters()))
        handle = parameter.register_hook(lambda gradient: gradient * math.nan)
        before = weights_of(session)
        with pytest.raises(NonFiniteLossError, match="gradient norm became NaN at step 1"):
            session.train_step()
        handle.remove()
        assert name
        assert_same_tensors(weights_of(session), before)


def test_a_finished_session_refuses_another_step(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path, max_steps=1)) as session:
        session.train_step()
        assert session.finished
        with pytest.raises(RunError, match="made all its 1 updates"):
            session.train_step()


def test_a_state_of_other_settings_is_refused_and_the_field_named(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path)) as session:
        state = session.state()
    with (
        Session(tiny_config(tmp_path, weights={"ess_floor": 0.7})) as session,
        pytest.raises(RunError, match=r"weights\.ess_floor = 0\.5, this run has 0\.7"),
    ):
        session.load_state(*state)
    relabelled = tiny_config(tmp_path, name="another label").model_dump()
    relabelled["forget"]["label"] = "another name of the set"
    with Session(UnlearnConfig.model_validate(relabelled)) as session:
        session.load_state(*state)


def test_a_state_of_another_model_is_refused(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path)) as session:
        tensors, data = session.state()
        data["identity"]["model"] = "0" * 64
        with pytest.raises(RunError, match="checkpoint was made with model = "):
            session.load_state(tensors, data)


def test_an_empty_selection_is_refused_with_its_reason(tmp_path: Path) -> None:
    nothing = {"scope": "threshold", "threshold": 0.99}
    with pytest.raises(CalibrationError, match=r"nothing to calibrate.*uniform"):
        Session(tiny_config(tmp_path, selection=nothing))
    with Session(
        tiny_config(tmp_path, selection=nothing, weights={"rule": "uniform"}, max_steps=1)
    ) as session:
        assert session.train_step()["weighted_gap"] is None


def test_a_missing_forget_category_is_refused(tmp_path: Path) -> None:
    questions = str(write_questions(tmp_path))
    with pytest.raises(InputError, match=r"forget category 'poison'.*general, hazard"):
        Session(
            tiny_config(tmp_path, evaluation={"questions": questions, "forget_category": "poison"})
        )


def test_a_profile_of_another_set_is_refused(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path)) as session:
        found = session.profile
    shorter = tiny_config(tmp_path)
    shorter = shorter.model_copy(update={"forget": shorter.forget.model_copy(update={"limit": 12})})
    with pytest.raises(InputError, match="another forget set"):
        Session(shorter, profile=found)


class Kept(dict[str, Profile]):
    """A store of profiles that lives in memory."""

    put = dict.__setitem__


def test_a_kept_profile_is_used_and_gives_the_same_run(tmp_path: Path) -> None:
    config, kept = tiny_config(tmp_path), Kept()
    with Session(config, profiles=kept) as session:
        row = without_clock([session.train_step()])
        assert kept == {session.profile_key: session.profile}
    with Session(config, profiles=kept) as session:
        assert [session.profile] == list(kept.values())
        assert without_clock([session.train_step()]) == row


@pytest.mark.parametrize(
    ("selection", "sentence"),
    [
        ({"top_k": 9}, "Top-k 9 is larger than the 8 experts"),
        ({"scope": "global", "top_k": 17}, "Top-k 17 is larger than the 16 experts"),
        ({"layers": [7]}, "Layer 7 has no routed experts"),
        ({"add": [[0, 8]]}, "Layer 0 has experts 0 to 7; found 8"),
        ({"add": [[0, 1]], "remove": [[0, 1]]}, "both added and removed"),
    ],
)
def test_what_the_model_alone_forbids_is_refused_before_profiling(
    tmp_path: Path, selection: dict[str, Any], sentence: str
) -> None:
    phases: set[str] = set()
    with pytest.raises(TraceError, match=sentence):
        Session(
            tiny_config(tmp_path, selection=selection),
            report=lambda progress: phases.add(progress.phase),
        )
    assert not phases


@pytest.mark.parametrize("rule", ["exact", "uniform"])
def test_a_refusal_after_profiling_keeps_the_profile(tmp_path: Path, rule: str) -> None:
    kept = Kept()
    refused = {"scope": "threshold", "threshold": 9.0}
    changes = {"weights": {"rule": rule}, "trainable": {"kind": "selected_experts"}}
    with pytest.raises(CalibrationError):
        Session(tiny_config(tmp_path, selection=refused, **changes), profiles=kept)
    assert len(kept) == 1
    phases: set[str] = set()
    with Session(
        tiny_config(tmp_path, **changes),
        profiles=kept,
        report=lambda progress: phases.add(progress.phase),
    ):
        assert not any("profiling" in phase for phase in phases)


@pytest.mark.parametrize("trainable", TRAINABLES)
def test_the_saved_model_opens_again_and_computes_the_same(
    tmp_path: Path, trainable: dict[str, Any]
) -> None:
    folder = tmp_path / "saved"
    with Session(tiny_config(tmp_path, trainable=trainable)) as session:
        drive(session, on_row=lambda row: None)
        session.save_model(folder)
        ids_BS = torch.tensor([session.opened.tokenizer("12ab")["input_ids"]])
        with torch.no_grad():
            logits = session.opened.model(input_ids=ids_BS).logits
        start = open_model(session.config.model)
        again = session.evaluate()
    saved = open_model(ModelConfig(source=str(folder), device="cpu"))
    assert saved.sites[0].layer == 0
    assert not list(folder.glob("*.bin"))
    with torch.no_grad():
        torch.testing.assert_close(
            saved.model(input_ids=ids_BS).logits, logits, rtol=1e-4, atol=1e-5
        )
        assert not torch.equal(start.model(input_ids=ids_BS).logits, logits)
    assert again["step"] == 6


def test_the_profile_after_is_of_the_trained_model(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path)) as session:
        same = session.profile_after()
        assert (same.forget.counts_DLE == session.profile.forget.counts_DLE).all()
        drive(session, on_row=lambda row: None)
        after = session.profile_after()
    assert after.forget.document_ids == session.profile.forget.document_ids
    assert (after.forget.counts_DLE != session.profile.forget.counts_DLE).any()


def test_closing_gives_the_thread_count_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    session = Session(tiny_config(tmp_path, threads=before + 1))
    assert torch.get_num_threads() == before + 1
    session.close()
    assert torch.get_num_threads() == before


def test_a_model_that_broke_at_the_last_update_is_not_called_done(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path, max_steps=1)) as session:
        session.train_step()
        with torch.no_grad():
            session.opened.model.lm_head.weight[5, 0] = math.nan
        with pytest.raises(NonFiniteLossError, match="loss became NaN at step 1, as measured on"):
            session.evaluate()


def test_a_refused_session_gives_the_thread_count_back(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    config = tiny_config(tmp_path, threads=before + 1, selection={"layers": [7]})
    with pytest.raises(InputError, match="7"):
        Session(config)
    assert torch.get_num_threads() == before


def test_progress_is_reported_for_everything_before_the_first_step(tmp_path: Path) -> None:
    phases: dict[str, tuple[int, int]] = {}

    def listen(progress: Progress) -> None:
        phases[progress.phase] = (progress.done, progress.total)

    with Session(tiny_config(tmp_path), report=listen) as session:
        session.evaluate()
    assert phases.keys() >= {
        "profiling forget set",
        "checking what the model knows",
        "reference of the forget set",
        "evaluating: forget loss",
        "evaluating: retain loss",
    }
    assert all(done == total > 0 for done, total in phases.values())


def test_a_warm_up_longer_than_the_run_is_said(tmp_path: Path) -> None:
    for steps, said in ((3, True), (2, False)):
        with Session(tiny_config(tmp_path, warmup_steps=steps, max_steps=2)) as session:
            notes = [note for note in warnings_of(session.facts()) if "warm-up" in note]
        assert (len(notes) == 1) is said
        if said:
            assert notes[0].startswith("The warm-up of 3 steps is longer than the run's 2")


@pytest.mark.parametrize(
    ("method", "beta", "said"),
    [("simnpo", 0.03, True), ("simnpo", 2.0, False), ("simnpo", None, False),
     ("npo", 0.03, False), ("npo", 4.5, True), ("graddiff", 0.03, False)],
)  # fmt: skip
def test_a_beta_of_another_method_is_asked_about(
    tmp_path: Path, method: str, beta: float | None, said: bool
) -> None:
    with Session(tiny_config(tmp_path, method=method, beta=beta)) as session:
        notes = [note for note in warnings_of(session.facts()) if note.startswith("beta is")]
    assert len(notes) == said
    if said:
        assert f"beta is {beta:g}, and {method}'s default is " in notes[0]
