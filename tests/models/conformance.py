"""What every type with routed experts must do, as checks on a tiny random model of it.

Used by the conformance test and by the table in docs/models.md, so that the table says what was
tested. A check raises AssertionError where TRACE would be wrong, and gives back a sentence where
TRACE refuses.
"""

# Dims: B sequences, S tokens of one, T = B*S, K experts per token

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tests.support.models import VOCABULARY
from tests.support.moe_types import tiny_model
from trace_engine.config import Cell, TrainableConfig
from trace_engine.errors import ModelError
from trace_engine.models import (
    OpenModel,
    RoutingTap,
    Site,
    backbone,
    expert_parameters,
    experts_skipped,
    find_sites,
    make_trainable,
    mask_experts,
)
from trace_engine.models.routers import router_kinds
from trace_engine.models.sites import experts_per_token

BY_LOGITS = {"softmax top-k", "sigmoid top-k", "top-k, then softmax over the chosen"}
"""Kinds of router whose choice is the largest logits: their scores keep the logits' order."""

_MOST_INPUTS = 40
_SOME = "layers that choose by a fixed table of tokens, not by scores, refuse it"
_DOWN = re.compile(r"down_proj|\bw2\b|output_linear")


def opened(model_type: str) -> OpenModel:
    """A tiny random model as `open_model` gives it, without files: no tokenizer, and its facts are
    only those that training asks for."""
    model = tiny_model(model_type)
    if type(model)._can_set_experts_implementation():
        model.set_experts_implementation("grouped_mm")
    nothing: Any = None
    facts: Any = SimpleNamespace(source=model_type, device="cpu")
    return OpenModel(model, nothing, find_sites(model), facts)


def ids(seed: int = 1) -> Tensor:
    """Token ids (B, S), without special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, VOCABULARY, (3, 12), generator=generator)


def check_tap(model_type: str) -> str:
    """Overwriting an expert's part of any tensor changes just the tokens that the tap reports.

    Every expert of every site is reached, by as many random inputs as that takes. The part is where
    TRACE says it is, and the output tells whether that is right.
    """
    model = opened(model_type)
    assert model.sites, "no routed block was found"
    reported = routing(model)
    with torch.no_grad(), ExitStack() as stack:
        # As profiling reads it: backbone only, the last site's experts not computed.
        stack.enter_context(experts_skipped(model.sites[-1]))
        seen: dict[int, Tensor] = {}
        stack.enter_context(RoutingTap(model.sites, lambda s, index, _: seen.update({s: index})))
        backbone(model.model)(input_ids=ids(), use_cache=False)
    assert all(torch.equal(seen[n], reported[n]) for n in reported)
    columns = tuple(reported[site.index].shape[-1] for site in model.sites)
    assert experts_per_token(model.model, model.sites) == columns
    assert sorted(reported) == [site.index for site in model.sites]
    runs = reaching_all(model)
    for site in model.sites:
        for expert in range(site.num_experts):
            reaching = next(n for n, run in enumerate(runs) if run[site.index].reached_by(expert))
            for n in sorted({0, reaching}):
                _check_parts(site, expert, runs[n][site.index])
        _check_shared(site, runs[0][site.index])
    return ""


def _check_parts(site: Site, expert: int, call: BlockCall) -> None:
    """Of each tensor, the expert's part alone computes the tokens reported for the expert."""
    reported_T = (call.index_TK == expert).any(-1)
    for name, (parameter, rows) in expert_parameters(site).items():
        with noisy(parameter, slice(expert * rows, (expert + 1) * rows)):
            changed_T = (call.again() != call.output_TD).any(-1)
        if _DOWN.search(name):
            assert torch.equal(changed_T, reported_T), (name, expert)
        else:  # an activation may be 0 before and after
            assert not (changed_T & ~reported_T).any(), (name, expert)
            assert changed_T.any() == reported_T.any(), (name, expert)


def _check_shared(site: Site, call: BlockCall) -> None:
    """A tensor of the experts in which no expert has a part of its own belongs to them all."""
    owned = set(expert_parameters(site))
    for prefix, module in site.experts.items():
        for name, parameter in module.named_parameters():
            if f"{prefix}.{name}" not in owned:
                with noisy(parameter, slice(0, 1)):
                    changed_T = (call.again() != call.output_TD).any(-1)
                assert torch.equal(changed_T, (call.index_TK >= 0).any(-1)), name


def check_drop(model_type: str) -> str:
    """Dropped experts give bit for bit what zeroed down-projections give, and then it is over."""
    model = opened(model_type)
    before = logits(model)
    for site in model.sites:
        dead = busiest(model, site)[:3]
        with mask_experts(model.sites, [Cell(site.layer, e) for e in dead]):
            dropped = logits(model)
        with changed(site, dead, torch.zeros_like):
            zeroed = logits(model)
        assert torch.equal(dropped, zeroed), site.name
        assert not torch.equal(dropped, before), f"{site.name}: the mask did nothing"
    assert torch.equal(logits(model), before)
    return ""


def check_reroute(model_type: str) -> str:
    """No dead expert is chosen, the next best is, and every slot is kept.

    Where the choice is the largest logits, which one is next is told from these.
    """
    model = opened(model_type)
    before, plain = logits(model), routing(model)
    kinds = router_kinds(model.model, model.sites)
    refused = []
    for site in model.sites:
        dead = busiest(model, site)[:3]
        try:
            with mask_experts(model.sites, [Cell(site.layer, e) for e in dead], "reroute"):
                index_TK = routing(model)[site.index]
                assert not torch.equal(logits(model), before), f"{site.name}: nothing changed"
            refusal = ""
        except ModelError as error:
            refusal = str(error)
        assert bool(refusal) == has_table(site), f"{site.name}: a fixed table alone is refused"
        if refusal:
            assert refusal.startswith(f"{site.name}: its router chose a masked expert all the same")
            assert "a fixed table" in refusal
            assert refusal.endswith("Use mode drop.")
            refused.append(site.layer)
            continue
        was_TK = plain[site.index]
        assert not torch.isin(index_TK, torch.tensor(dead)).any(), site.name
        # Skip and identity slots hold -1, and may be the next best.
        if (was_TK >= 0).all():
            assert (index_TK >= 0).all(), f"{site.name}: fewer slots than before"
        for was_K, now_K in zip(was_TK.tolist(), index_TK.tolist(), strict=True):
            real = [e for e in now_K if e >= 0]
            assert len(set(real)) == len(real), f"{site.name}: an expert chosen twice"
            if not set(was_K) & set(dead):
                assert set(was_K) == set(now_K), f"{site.name}: a choice that no mask touches"
        if kinds[site.index] in BY_LOGITS:
            scores_TN, slots = router_logits(model, site), was_TK.shape[-1]
            assert torch.equal(_largest(scores_TN, slots, site), was_TK.sort().values)
            scores_TN[:, dead] = -torch.inf
            assert torch.equal(_largest(scores_TN, slots, site), index_TK.sort().values), site.name
    assert torch.equal(logits(model), before)
    assert len(refused) < len(model.sites), "no layer can be re-routed"
    return _SOME if refused else ""


def _largest(scores_TN: Tensor, slots: int, site: Site) -> Tensor:
    index_TK = scores_TN.topk(slots).indices
    return index_TK.where(index_TK < site.num_experts, -1).sort().values


def check_partial(model_type: str) -> str:
    """AdamW with weight decay moves the chosen experts' slices, and not one bit beside them.

    Of every tensor of their site. Where the slices are is TRACE's word here: `check_tap` tests it.
    The slices' gradients are those of the whole tensors, and the loss keeps its bits.
    """
    model = opened(model_type)
    first, last = model.sites[0], model.sites[-1]
    cells = {Cell(first.layer, busiest(model, first)[0]), Cell(last.layer, busiest(model, last)[1])}
    before = {n: t.detach().clone() for n, t in model.model.state_dict().items()}
    model.model.eval()
    plain = next_token_loss(model)
    plain.backward()
    whole = {n: p.grad for n, p in model.model.named_parameters() if p.grad is not None}
    model.model.zero_grad()
    trainable = make_trainable(model, TrainableConfig(kind="selected_experts"), sorted(cells))
    alone = next_token_loss(model)
    assert torch.equal(alone, plain)
    alone.backward()
    for name, leaf in zip(trainable.names, trainable.parameters(), strict=True):
        rows = share(name, leaf, whole)
        torch.testing.assert_close(leaf.grad, rows, rtol=1e-4, atol=1e-6 * float(rows.abs().max()))
        leaf.grad = None
    train(model, trainable)
    trainable.close()
    owned = {n: (s, r) for s in model.sites for n, (_, r) in expert_parameters(s).items()}
    for name, tensor in model.model.state_dict().items():
        if name not in owned:
            assert torch.equal(tensor, before[name]), name
            continue
        site, rows = owned[name]
        chosen = {cell.expert for cell in cells if cell.layer == site.layer}
        for expert in range(site.num_experts):
            part = slice(expert * rows, (expert + 1) * rows)
            moved = not torch.equal(tensor[part], before[name][part])
            assert moved == (expert in chosen), (name, expert)
        beyond = slice(site.num_experts * rows, None)  # of identity experts
        assert torch.equal(tensor[beyond], before[name][beyond]), name
    assert {cell.layer for cell in cells} <= {site.layer for site, _ in owned.values()}
    return ""


def check_lora(model_type: str) -> str:
    """Adapters on experts and attention start as the model, train alone, and merge."""
    model = opened(model_type)
    before = logits(model)
    names = set(model.model.state_dict())
    was = {n: p.detach().clone() for s in model.sites for n, (p, _) in expert_parameters(s).items()}
    try:
        trainable = make_trainable(model, TrainableConfig(kind="lora", lora_rank=2))
    except ModelError as error:
        assert set(model.model.state_dict()) == names, "refused, but changed"
        return str(error)
    torch.testing.assert_close(logits(model), before)
    for site in model.sites:
        for prefix in site.experts:
            assert any(f"{prefix}." in n for n in trainable.names), f"no adapter on {prefix}"
    parameters = dict(model.model.named_parameters())
    frozen = {n: p.detach().clone() for n, p in parameters.items() if n not in trainable.names}
    train(model, trainable)
    for name, value in frozen.items():
        assert torch.equal(parameters[name], value), name
    trained = logits(model)
    assert (trained - before).abs().max() > 1e-4
    trainable.close()
    assert set(model.model.state_dict()) == names
    torch.testing.assert_close(logits(model), trained, rtol=1e-3, atol=1e-3)
    now = model.model.state_dict()
    for name, value in was.items():
        assert value.ndim < 3 or not torch.equal(now[name], value), f"{name}: nothing was merged"
    return ""


@cache
def outcome(model_type: str, check: str) -> str:
    """What a check says of a type: "" for yes, or why TRACE refuses. Computed once a process."""
    return CHECKS[check](model_type)


CHECKS: dict[str, Callable[[str], str]] = {
    "tap": check_tap,
    "drop": check_drop,
    "reroute": check_reroute,
    "partial": check_partial,
    "LoRA": check_lora,
}


def logits(model: OpenModel, seed: int = 1) -> Tensor:
    model.model.eval()
    with torch.no_grad():
        out: Tensor = model.model(input_ids=ids(seed), use_cache=False).logits
    return out


def routing(model: OpenModel, seed: int = 1) -> dict[int, Tensor]:
    """index_TK of each site, -1 where a slot reaches no routed expert."""
    seen: dict[int, Tensor] = {}
    with RoutingTap(model.sites, lambda site, index, _: seen.update({site: index})):
        logits(model, seed)
    return seen


class _Products(TorchFunctionMode):
    """Keeps what each of these matrices made of the hidden states, whichever module uses it."""

    def __init__(self, matrices: list[nn.Parameter]) -> None:
        super().__init__()
        self.found: list[Tensor] = []
        self._matrices = matrices

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is nn.functional.linear and any(args[1] is m for m in self._matrices):
            self.found.append(out.detach().clone())
        return out


def router_logits(model: OpenModel, site: Site) -> Tensor:
    """What the site's router makes of each token, (T, N): its one matrix with a row per choice.

    Rows for identity experts, where there are any, are also in the experts' own tensors.
    """
    inside = {p for part in site.experts.values() for p in part.parameters()}
    owned = expert_parameters(site).values()
    choices = {site.num_experts} | {len(p) // rows for p, rows in owned}
    found = {p for r in site.routers for p in r.parameters() if p.ndim == 2 and len(p) in choices}
    with _Products(list(found - inside)) as products:
        logits(model)
    [scores] = products.found
    return scores.flatten(0, -2)


def has_table(site: Site) -> bool:
    """Whether the site's router looks its experts up by the token's id (DeepSeek-V4)."""
    return any(n.endswith("tid2eid") for r in site.routers for n, _ in r.named_buffers())


def busiest(model: OpenModel, site: Site) -> list[int]:
    """The site's experts, those with most tokens first."""
    index_TK = routing(model)[site.index]
    count_E = torch.bincount(index_TK[index_TK >= 0], minlength=site.num_experts)
    return [int(e) for e in count_E.argsort(descending=True, stable=True)]


@dataclass(frozen=True, slots=True)
class BlockCall:
    """What the block that holds a site's experts was called with in one forward, and gave."""

    block: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    index_TK: Tensor
    """What the tap reported."""
    output_TD: Tensor
    """One row a token."""

    def reached_by(self, expert: int) -> bool:
        """Whether a token reaches the expert."""
        return bool((self.index_TK == expert).any())

    def again(self) -> Tensor:
        """The output now."""
        with torch.no_grad():
            return _rows(self.block(*self.args, **self.kwargs))


def block_calls(model: OpenModel, seed: int) -> dict[int, BlockCall]:
    """Site index -> its block's call in a forward of `ids(seed)`."""
    given: dict[int, tuple[Any, ...]] = {}
    with ExitStack() as stack:
        for site in model.sites:

            def note(m: Any, args: Any, kwargs: Any, out: Any, n: int = site.index) -> None:
                given[n] = (m, args, kwargs, _rows(out).clone())

            # Where several modules compute the experts, the site is their block.
            name = site.name if len(site.experts) > 1 else site.name.rpartition(".")[0]
            handle = model.model.get_submodule(name).register_forward_hook(note, with_kwargs=True)
            stack.callback(handle.remove)
        index = routing(model, seed)
    calls = {n: BlockCall(m, a, k, index[n], out) for n, (m, a, k, out) in given.items()}
    for site in model.sites:
        assert torch.equal(calls[site.index].again(), calls[site.index].output_TD), site.name
    return calls


def reaching_all(model: OpenModel) -> list[dict[int, BlockCall]]:
    """Calls of random inputs, as many as it takes until tokens reach every expert of every site."""
    left = {(site.index, e) for site in model.sites for e in range(site.num_experts)}
    runs: list[dict[int, BlockCall]] = []
    for seed in range(1, _MOST_INPUTS + 1):
        runs.append(block_calls(model, seed))
        left -= {(n, e) for n, e in left if runs[-1][n].reached_by(e)}
        if not left:
            return runs
    raise AssertionError(f"{_MOST_INPUTS} inputs reach no (site, expert) of {sorted(left)}")


def _rows(output: Any) -> Tensor:
    out: Tensor = output[0] if isinstance(output, tuple) else output
    return out.reshape(ids().numel(), -1)


@contextmanager
def noisy(parameter: nn.Parameter, part: slice) -> Iterator[None]:
    """Inside, random numbers are added to these rows of the tensor."""
    kept = parameter.detach().clone()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        parameter[part] += torch.randn(kept[part].shape, generator=generator)
    try:
        yield
    finally:
        with torch.no_grad():
            parameter.copy_(kept)


@contextmanager
def changed(site: Site, experts: list[int], change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the experts' down-projections (biases too) are what `change` makes of them."""
    down = [v for n, v in expert_parameters(site).items() if _DOWN.search(n)]
    assert down, f"no down-projection among {list(expert_parameters(site))}"
    kept = [p.detach().clone() for p, _ in down]
    with torch.no_grad():
        for parameter, rows in down:
            for expert in experts:
                part = parameter[expert * rows : (expert + 1) * rows]
                part.copy_(change(part))
    try:
        yield
    finally:
        with torch.no_grad():
            for (parameter, _), old in zip(down, kept, strict=True):
                parameter.copy_(old)


def share(name: str, leaf: Tensor, whole: dict[str, Tensor]) -> Tensor:
    """Of the tensors by name, what belongs to the leaf of this name."""
    stem, _, numbers = name.removesuffix("]").partition("[")
    if not numbers:
        return whole[stem]
    experts = [int(number) for number in numbers.split(",")]
    by_expert = whole[stem].unflatten(0, (-1, len(leaf) // len(experts)))
    return by_expert[experts].flatten(0, 1)


def next_token_loss(model: OpenModel) -> Tensor:
    logits_BSV = model.model(input_ids=ids(), use_cache=False).logits
    return nn.functional.cross_entropy(logits_BSV[:, :-1].flatten(0, 1), ids()[:, 1:].flatten())


def train(model: OpenModel, trainable: Any, steps: int = 2) -> None:
    model.model.train()
    optimizer = torch.optim.AdamW(trainable.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        next_token_loss(model).backward()
        trainable.after_backward()
        optimizer.step()
        trainable.after_step()
        optimizer.zero_grad()
    model.model.eval()
