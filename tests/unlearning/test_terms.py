"""Every method's forget term and every retain term: values by plain loops in float64, masks, and
whole runs on the tiny model.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from tests.unlearning.cases import tiny_config, without_clock
from trace_engine.config import UnlearnConfig
from trace_engine.errors import ModelError
from trace_engine.methods import METHODS, PARAMETERS, RETAIN_TERMS, MethodName, RetainTerm
from trace_engine.models import collate, open_model
from trace_engine.unlearning import Session, drive, losses
from trace_engine.unlearning.reference import StartCopy, forward_hidden
from trace_engine.unlearning.terms import FORGET_TERMS, RETAIN_LOSSES, ForgetBatch

# Ragged rows: padding on the right, padding on the left, a prompt and a hole.
LABELS_BS = torch.tensor(
    [[0, 2, 1, 3, -100], [-100, -100, 4, 0, 1], [2, -100, 3, -100, 0], [1, 4, -100, -100, -100]]
)
PARAMETERS_OF: dict[str, dict[str, float]] = {
    "npo": {"beta": 0.7},
    "simnpo": {"beta": 1.5, "delta": 0.4},
    "graddiff": {},
    "ga": {},
    "wga": {"beta": 0.6},
    "satimp": {"beta1": 2.0, "beta2": 0.5},
    "undial": {"beta": 3.0},
    "rmu": {"steering": 2.5},
    "ceu": {},
    "dpo": {"beta": 0.7},
    "idkdpo": {"beta": 0.3},
}
DIRECTION_D = torch.tensor([0.1, 0.7, 0.1, 0.5, 0.5], dtype=torch.float64)
ON_PREDICTIONS = [name for name, method in METHODS.items() if not method.steers]
"""Methods whose loss reads logits; RMU's reads hidden states, for which these stand in here."""
REFERENCE_B = torch.tensor([4.0, 1.0, 2.0, 3.0], dtype=torch.float64)
PREFERRED_B = torch.tensor([2.0, 5.0, 1.5, 0.5], dtype=torch.float64)
PREFERRED_REFERENCE_B = torch.tensor([3.0, 4.5, 1.0, 2.5], dtype=torch.float64)


def random_logits(seed: int, labels_BS: Tensor = LABELS_BS, size: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*labels_BS.shape, size, generator=generator, dtype=torch.float64)


def forget(method: MethodName, logits: Tensor, start: Tensor, labels: Tensor) -> Tensor:
    nll_BT = losses.token_nll(logits, labels)
    reference_B = REFERENCE_B[: len(labels)]
    batch = ForgetBatch(
        labels_BS=labels,
        nll_BT=nll_BT,
        reference_nll_B=reference_B,
        logits_BSV=logits,
        start_logits_BSV=start,
        hidden_BSD=logits,
        direction_D=DIRECTION_D,
        preferred_nll_B=PREFERRED_B[: len(labels)],
        preferred_reference_nll_B=PREFERRED_REFERENCE_B[: len(labels)],
    )
    return FORGET_TERMS[method](batch, PARAMETERS_OF[method])


def distributions(logits: Tensor, labels: Tensor) -> list[list[tuple[list[float], int]]]:
    """(probabilities, label) of each label of each document, with `math` alone."""
    found = []
    for row in range(len(labels)):
        document = []
        for t in range(labels.shape[1] - 1):
            label = int(labels[row, t + 1])
            if label == -100:
                continue
            powers = [math.exp(value) for value in logits[row, t].tolist()]
            document.append(([power / sum(powers) for power in powers], label))
        found.append(document)
    return found


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def by_loops(method: str, logits: Tensor, start: Tensor, labels: Tensor) -> float:
    at = PARAMETERS_OF[method]
    documents = distributions(logits, labels)
    p_D = [[q[label] for q, label in document] for document in documents]
    sums = [-sum(math.log(p) for p in document) for document in p_D]
    flat = [p for document in p_D for p in document]
    if method in ("graddiff", "ga"):
        return -mean([-math.log(p) for p in flat])
    if method == "npo":
        pairs = zip(sums, REFERENCE_B.tolist(), strict=True)
        return -2 / at["beta"] * mean([log_sigmoid(at["beta"] * (a - b)) for a, b in pairs])
    if method in ("dpo", "idkdpo"):
        gains = (PREFERRED_REFERENCE_B - PREFERRED_B).tolist()
        rows_of = zip(sums, REFERENCE_B.tolist(), gains, strict=True)
        return (
            -2 / at["beta"] * mean([log_sigmoid(at["beta"] * (a - b + c)) for a, b, c in rows_of])
        )
    if method == "ceu":
        later = [pair for document in documents for pair in document[1:]]
        return mean(
            [
                -sum(p / (1 - q[y]) * math.log(p) for token, p in enumerate(q) if token != y)
                for q, y in later
            ]
        )
    if method == "simnpo":
        means = [total / len(document) for total, document in zip(sums, p_D, strict=True)]
        margins = [at["beta"] * (value - at["delta"]) for value in means]
        return -2 / at["beta"] * mean([log_sigmoid(margin) for margin in margins])
    if method == "wga":
        return -mean([p ** at["beta"] * -math.log(p) for p in flat])
    if method == "satimp":
        return -mean([p ** at["beta1"] * (1 - p) ** at["beta2"] * -math.log(p) for p in flat])
    if method == "rmu":
        rows = [logits[row, s].tolist() for row, s in (labels != -100).nonzero().tolist()]
        goal = [at["steering"] * value for value in DIRECTION_D.tolist()]
        return mean([mean([(h - g) ** 2 for h, g in zip(r, goal, strict=True)]) for r in rows])
    values = []
    for now, before in zip(documents, distributions(start, labels), strict=True):
        for (q, label), (teacher, _) in zip(now, before, strict=True):
            # softmax(z - beta onehot) = q_teacher e^{-beta onehot}, normalised again.
            lowered = [
                p * (math.exp(-at["beta"]) if token == label else 1.0)
                for token, p in enumerate(teacher)
            ]
            pairs = zip(lowered, q, strict=True)
            values.append(-sum(a / sum(lowered) * math.log(b) for a, b in pairs))
    return mean(values)


def test_every_method_and_term_has_its_entry() -> None:
    assert tuple(METHODS) == get_args(MethodName)
    assert set(FORGET_TERMS) == set(METHODS) == set(PARAMETERS_OF)
    assert tuple(RETAIN_TERMS) == get_args(RetainTerm)
    assert set(RETAIN_LOSSES) == set(RETAIN_TERMS)
    assert set(PARAMETERS) <= set(UnlearnConfig.model_fields)
    for name, method in METHODS.items():
        assert set(method.parameters) == set(PARAMETERS_OF[name])


@pytest.mark.parametrize("method", METHODS)
def test_a_forget_term_is_what_plain_loops_say(method: MethodName) -> None:
    logits, start = random_logits(0), random_logits(1)
    found = float(forget(method, logits, start, LABELS_BS))
    assert found == pytest.approx(by_loops(method, logits, start, LABELS_BS), rel=1e-12)


def test_values_worked_out_by_hand() -> None:
    """Two labels at p = 1/2 and p = 1/4, of one document."""
    nll_BT = torch.tensor([[math.log(2), math.log(4)]], dtype=torch.float64)
    mask_BT = torch.ones(1, 2, dtype=torch.bool)
    ln2 = math.log(2)
    # -(1/2 ln 2 + 1/4 * 2 ln 2) / 2
    assert float(losses.wga_forget(nll_BT, mask_BT, 1.0)) == pytest.approx(-ln2 / 2)
    # -(1/4 * 1/2 * ln 2 + 1/16 * 3/4 * 2 ln 2) / 2 = -(1/8 + 3/32) ln 2 / 2
    assert float(losses.satimp_forget(nll_BT, mask_BT, 2.0, 1.0)) == pytest.approx(-7 / 64 * ln2)
    # mean NLL 1.5 ln 2, delta 1/2 ln 2, beta 1: 2 log(1 + e^{-ln 2}) = 2 log(3/2)
    found = float(losses.simnpo_forget(nll_BT, mask_BT, 1.0, ln2 / 2))
    assert found == pytest.approx(2 * math.log(1.5))
    # Start logits equal for both tokens, the label's lowered by ln 3: teacher (1/4, 3/4); the
    # model says (1/2, 1/2), so the cross-entropy is ln 2.
    labels_BS = torch.tensor([[0, 0]])
    even = torch.zeros(1, 2, 2, dtype=torch.float64)
    assert float(losses.undial_forget(even, even, labels_BS, math.log(3))) == pytest.approx(ln2)
    now = torch.tensor([[[0.0, ln2], [9.0, 0.0]]], dtype=torch.float64)  # (1/3, 2/3)
    found = float(losses.undial_forget(now, even, labels_BS, math.log(3)))
    assert found == pytest.approx(math.log(3) / 4 + 3 * math.log(1.5) / 4)
    # KL((1/2, 1/2) || (1/3, 2/3)) = ln(3/2)/2 + ln(3/4)/2
    found = float(losses.token_kl(now, even, labels_BS)[0, 0])
    assert found == pytest.approx((math.log(1.5) + math.log(0.75)) / 2)
    hidden = torch.tensor([[[1.0, 2.0], [9.0, 9.0]]], dtype=torch.float64)
    # ((1 - 0)^2 + (2 - 0)^2) / 2
    assert losses.token_hidden(hidden, 0 * hidden, labels_BS).tolist() == [[2.5]]


@pytest.mark.parametrize("method", ON_PREDICTIONS)
def test_positions_without_a_label_and_company_do_not_matter(method: MethodName) -> None:
    """Left padding, right padding and holes: what a model says there changes no bit of the loss."""
    logits, start = random_logits(2), random_logits(3)
    wild = [value.clone() for value in (logits, start)]
    for value in wild:
        value[:, :-1][LABELS_BS[:, 1:] == -100] = 1e4
        value[:, -1] = -1e4
    found = forget(method, logits, start, LABELS_BS)
    assert torch.equal(found, forget(method, wild[0], wild[1], LABELS_BS))
    one, wide = LABELS_BS[:1], torch.full((1, 9), -100)
    wide[:, 3:8] = one
    padded = [torch.zeros(1, 9, 5, dtype=torch.float64) for _ in range(2)]
    for value, alone in zip(padded, (logits, start), strict=True):
        value[:, 3:8] = alone[:1]
    # The first label of a row is never predicted; behind left padding it would be.
    wide[:, 3] = -100
    torch.testing.assert_close(
        forget(method, padded[0], padded[1], wide), forget(method, logits[:1], start[:1], one)
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_forget_terms_gradient_treats_weights_and_start_as_constants(method: MethodName) -> None:
    logits, start = random_logits(4).requires_grad_(), random_logits(5).requires_grad_()
    forget(method, logits, start, LABELS_BS).backward()
    assert start.grad is None
    assert logits.grad is not None
    at = PARAMETERS_OF[method]
    if method == "ceu":
        # softmax - target at each label but a document's first, over their number.
        shown = logits.detach().softmax(dim=-1)
        wanted = torch.zeros_like(shown)
        later = losses.later_labels(LABELS_BS)
        for row, t in later.nonzero().tolist():
            y = int(LABELS_BS[row, t + 1])
            target = shown[row, t] / (1 - shown[row, t, y])
            target[y] = 0
            wanted[row, t] = (shown[row, t] - target) / later.sum()
        torch.testing.assert_close(logits.grad, wanted, rtol=1e-9, atol=1e-12)
        return
    if method not in ("wga", "satimp"):
        assert torch.autograd.gradcheck(
            lambda value: forget(method, value, start.detach(), LABELS_BS), (logits,)
        )
        return
    frozen = (-losses.token_nll(logits.detach(), LABELS_BS)).exp()
    weight = frozen ** at.get("beta", at.get("beta1", 0)) * (1 - frozen) ** at.get("beta2", 0)
    again = logits.detach().clone().requires_grad_()
    nll_BT = losses.token_nll(again, LABELS_BS)
    (-(weight * nll_BT).sum() / (LABELS_BS[:, 1:] != -100).sum()).backward()
    torch.testing.assert_close(logits.grad, again.grad, rtol=1e-9, atol=1e-12)


def test_satimp_stays_finite_at_certain_and_at_impossible_tokens() -> None:
    nll_BT = torch.tensor([[0.0, 1e-20, 1e4]], requires_grad=True)
    losses.satimp_forget(nll_BT, torch.ones(1, 3, dtype=torch.bool), 5.0, 1.0).backward()
    assert nll_BT.grad is not None
    assert nll_BT.grad[0].tolist() == pytest.approx([0, 0, 0], abs=1e-12)


# Retain terms ------------------------------------------------------------------------------------

TOKEN_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nll": lambda now, start: losses.token_nll(now, LABELS_BS),
    "kl": lambda now, start: losses.token_kl(now, start, LABELS_BS),
    "hidden": lambda now, start: losses.token_hidden(now, start, LABELS_BS),
}


def test_kl_and_hidden_are_what_plain_loops_say() -> None:
    now, start = random_logits(6), random_logits(7)
    kl, hidden = [], []
    pairs = zip(distributions(now, LABELS_BS), distributions(start, LABELS_BS), strict=True)
    for ours, theirs in pairs:
        for (p, _), (q, _) in zip(ours, theirs, strict=True):
            kl.append(sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)))
    for row, t in (LABELS_BS[:, 1:] != -100).nonzero().tolist():
        rows = zip(now[row, t].tolist(), start[row, t].tolist(), strict=True)
        hidden.append(mean([(a - b) ** 2 for a, b in rows]))
    mask_BT = losses.label_mask(LABELS_BS)
    for name, wanted in (("kl", kl), ("hidden", hidden)):
        found = TOKEN_LOSSES[name](now, start)
        assert found[mask_BT].tolist() == pytest.approx(wanted, rel=1e-12)
        assert not found[~mask_BT].any()
        assert not TOKEN_LOSSES[name](now, now).any()


@pytest.mark.parametrize("term", RETAIN_TERMS)
def test_a_retain_terms_weights(term: str) -> None:
    """1 is bitwise no weight, in loss and gradient; others are sum(w l) / n."""
    mask_BT = losses.label_mask(LABELS_BS)
    start, found = random_logits(9).float(), []
    for weights_BT in (None, torch.ones(mask_BT.shape, dtype=torch.float64)):
        now = random_logits(8).float().requires_grad_()
        loss = losses.retain_mean(TOKEN_LOSSES[term](now, start), mask_BT, weights_BT)
        found.append((loss, *torch.autograd.grad(loss, now)))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    weights_BT = torch.rand(mask_BT.shape, generator=torch.Generator().manual_seed(0)).double()
    loss_BT = TOKEN_LOSSES[term](random_logits(8), random_logits(9))
    by_hand = sum(
        float(weights_BT[row, t] * loss_BT[row, t]) for row, t in mask_BT.nonzero().tolist()
    )
    value = float(losses.retain_mean(loss_BT, mask_BT, weights_BT))
    assert value == pytest.approx(by_hand / int(mask_BT.sum()), rel=1e-12)


@pytest.mark.parametrize("term", ["kl", "hidden"])
def test_a_retain_terms_gradient_in_float64(term: str) -> None:
    now, start = random_logits(10).requires_grad_(), random_logits(11).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: TOKEN_LOSSES[term](value, start.detach()), (now,))
    TOKEN_LOSSES[term](now, start).sum().backward()
    assert start.grad is None


# Runs --------------------------------------------------------------------------------------------


def settings_of(method: str, term: str = "nll") -> dict[str, Any]:
    rule = {"rule": "exact", "hardness": 0.5} if METHODS_RETAIN[method] else {"rule": "uniform"}
    return {"method": method, "retain_term": term, "weights": rule}


METHODS_RETAIN = {str(name): method.retains for name, method in METHODS.items()}


@pytest.mark.parametrize("method", ON_PREDICTIONS)
def test_three_steps_raise_the_forget_loss(tmp_path: Path, method: str) -> None:
    """The retain term is off, so that the direction is the method's own."""
    quiet: dict[str, Any] = {"alpha": 0, "weights": {"rule": "uniform"}, "gamma": 1}
    if method == "satimp":
        # A random model gives every token p near 1/260: its p^5 would leave no gradient at all.
        quiet["beta1"] = 0.5
    config = tiny_config(tmp_path, method=method, max_steps=3, warmup_steps=0, **quiet)
    rows: list[dict[str, Any]] = []
    with Session(config) as session:
        drive(session, on_row=rows.append)
    train = [row for row in rows if row["kind"] == "train"]
    assert all(math.isfinite(row[key]) for row in train for key in ("loss", "grad_norm"))
    assert train[0]["grad_norm"] > 0
    assert rows[-1]["forget_nll"]["value"] > rows[0]["forget_nll"]["value"]


@pytest.mark.parametrize("term", ["kl", "hidden"])
def test_a_start_term_is_0_before_the_first_update_and_not_after(tmp_path: Path, term: str) -> None:
    with Session(tiny_config(tmp_path, **settings_of("npo", term))) as session:
        first, second = session.train_step(), session.train_step()
    assert first["retain_loss"] == pytest.approx(0, abs=1e-7)
    assert second["retain_loss"] > 1e-8
    assert first["retain_nll"] > 1
    assert first["max_weight"] > 1


def test_weights_act_on_the_kl_term(tmp_path: Path) -> None:
    found = []
    for hardness in (0.0, 0.5):
        settings = settings_of("graddiff", "kl") | {
            "weights": {"rule": "exact", "hardness": hardness}
        }
        with Session(tiny_config(tmp_path, **settings)) as session:
            session.train_step()
            found.append(session.train_step()["retain_loss"])
    with Session(
        tiny_config(tmp_path, **settings_of("graddiff", "kl") | {"weights": {"rule": "uniform"}})
    ) as session:
        session.train_step()
        assert session.train_step()["retain_loss"] == found[0]
    assert found[0] != found[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "term"),
    [
        ("npo", "kl"),
        ("graddiff", "hidden"),
        ("undial", "nll"),
        ("rmu", "hidden"),
        ("ceu", "kl"),
        ("idkdpo", "nll"),
        ("dpo", "hidden"),
    ],
)
@pytest.mark.parametrize("trainable", ["all", "lora"])
def test_a_run_with_a_start_model_resumes_bit_for_bit(
    tmp_path: Path, method: str, term: str, trainable: str
) -> None:
    kind = {"kind": trainable} | ({"lora_rank": 2} if trainable == "lora" else {})
    config = tiny_config(tmp_path, trainable=kind, max_steps=4, **settings_of(method, term))
    straight: list[dict[str, Any]] = []
    with Session(config) as session:
        drive(session, on_row=straight.append)
        wanted = {name: v.clone() for name, v in session.opened.model.state_dict().items()}
    rows: list[dict[str, Any]] = []
    with Session(config) as first:
        drive(first, on_row=rows.append, should_stop=lambda: first.step == 2)
        tensors, data = first.state()
    tensors, data = load(save(tensors)), json.loads(json.dumps(data, allow_nan=False))
    with Session(config) as second:
        second.load_state(tensors, data)
        drive(second, on_row=rows.append)
        weights = second.opened.model.state_dict()
        different = [name for name, v in wanted.items() if not torch.equal(v, weights[name])]
    assert without_clock(rows) == without_clock(straight)
    assert different == []


def test_the_reference_is_the_start_model_and_never_the_live_one(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, **settings_of("undial", "kl"))
    with Session(config) as session:
        assert session._copy is not None
        batch = collate(session.setup.forget.training, [0, 1, 2])
        before = session._copy.forward(batch)
        session.train_step()
        with torch.no_grad():
            for parameter in session.opened.model.parameters():
                parameter.add_(0.1)
            live = forward_hidden(session.opened, batch)
        after = session._copy.forward(batch)
    start = open_model(config.model)
    with torch.no_grad():
        logits_BSV = start.model(**batch.inputs).logits
        hidden_BSD = start.model.model(**batch.inputs).last_hidden_state
    for value, again, wanted, moved in zip(
        before, after, (logits_BSV, hidden_BSD), live, strict=True
    ):
        assert torch.equal(value, again)
        assert torch.equal(value, wanted)
        assert not torch.equal(value, moved)
        assert not value.requires_grad


@pytest.mark.parametrize(("method", "term"), [("npo", "nll"), ("simnpo", "nll"), ("ga", "nll")])
def test_no_second_model_is_held_where_none_is_needed(
    tmp_path: Path, method: str, term: str
) -> None:
    with Session(tiny_config(tmp_path, **settings_of(method, term))) as session:
        assert session._copy is None
        assert session.facts()["method"]["start_model_copy"] is False


def test_a_start_model_that_changed_on_disk_is_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    with pytest.raises(ModelError, match="has changed while the run was being set up"):
        StartCopy.load(config.model, "0" * 64)


def test_ga_is_graddiff_without_its_retain_term_whatever_alpha(tmp_path: Path) -> None:
    found = []
    uniform = {"weights": {"rule": "uniform"}}
    for method, alpha in (("ga", 5.0), ("graddiff", 0.0)):
        rows: list[dict[str, Any]] = []
        with Session(tiny_config(tmp_path, method=method, alpha=alpha, **uniform)) as session:
            drive(session, on_row=rows.append)
        found.append([row["forget_nll"] for row in without_clock(rows)])
        train = [row for row in rows if row["kind"] == "train"]
        assert all(row["loss"] == row["forget_loss"] for row in train)
    assert found[0] == found[1]


def test_facts_say_which_method_ran_and_with_what(tmp_path: Path) -> None:
    with Session(tiny_config(tmp_path, **settings_of("simnpo", "hidden"))) as session:
        facts = session.facts()["method"]
    assert facts["parameters"] == {"beta": 4.5, "delta": 0.0}
    assert (facts["gamma"], facts["alpha"], facts["retain_term"]) == (0.125, 1.0, "hidden")
    assert facts["start_model_copy"] is True
    assert "Fan et al." in facts["source"]
