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
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

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
from trace_engine.models.sites import experts_per_token

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


def ids() -> Tensor:
    """Token ids (B, S), without special ones."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(4, VOCABULARY, (3, 12), generator=generator)


def check_tap(model_type: str) -> str:
    """Overwriting an expert's down-projection changes just the tokens that the tap reports."""
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
    for site in model.sites:
        before_TD = block_output(model, site)
        for expert in range(site.num_experts):
            with changed(site, [expert], lambda part: part + 1):
                after_TD = block_output(model, site)
            changed_T = (after_TD != before_TD).any(-1)
            reported_T = (reported[site.index] == expert).any(-1)
            assert torch.equal(changed_T, reported_T), (site.name, expert)
        assert (reported[site.index] >= 0).any(), f"{site.name} reached no expert"
    return ""


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
    """No dead expert is chosen, the next best is, and every slot is kept."""
    model = opened(model_type)
    before, plain = logits(model), routing(model)
    refused = []
    for site in model.sites:
        dead = busiest(model, site)[:3]
        try:
            with mask_experts(model.sites, [Cell(site.layer, e) for e in dead], "reroute"):
                index_TK = routing(model)[site.index]
                assert not torch.equal(logits(model), before), f"{site.name}: nothing changed"
        except ModelError:
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
    assert torch.equal(logits(model), before)
    assert len(refused) < len(model.sites), "no layer can be re-routed"
    return _SOME if refused else ""


def check_partial(model_type: str) -> str:
    """AdamW with weight decay moves the chosen experts' slices, and not one bit beside them."""
    model = opened(model_type)
    first, last = model.sites[0], model.sites[-1]
    cells = {Cell(first.layer, busiest(model, first)[0]), Cell(last.layer, busiest(model, last)[1])}
    before = {n: t.detach().clone() for n, t in model.model.state_dict().items()}
    trainable = make_trainable(model, TrainableConfig(kind="selected_experts"), sorted(cells))
    train(model, trainable)
    trainable.close()
    owned = {n: (s, r) for s in model.sites for n, (_, r) in expert_parameters(s).items()}
    moved: set[Cell] = set()
    for name, tensor in model.model.state_dict().items():
        if name not in owned:
            assert torch.equal(tensor, before[name]), name
            continue
        site, rows = owned[name]
        for row in range(len(tensor)):
            if not torch.equal(tensor[row], before[name][row]):
                moved.add(Cell(site.layer, row // rows))
    assert moved == cells
    return ""


def check_lora(model_type: str) -> str:
    """Adapters on experts and attention start as the model, train alone, and merge."""
    model = opened(model_type)
    before = logits(model)
    names = set(model.model.state_dict())
    try:
        trainable = make_trainable(model, TrainableConfig(kind="lora", lora_rank=2))
    except ModelError as error:
        assert set(model.model.state_dict()) == names, "refused, but changed"
        return str(error)
    torch.testing.assert_close(logits(model), before)
    experts = [n for n in trainable.names if any(s.name in n for s in model.sites)]
    assert experts, "no adapter on any expert"
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


def logits(model: OpenModel) -> Tensor:
    model.model.eval()
    with torch.no_grad():
        out: Tensor = model.model(input_ids=ids(), use_cache=False).logits
    return out


def routing(model: OpenModel) -> dict[int, Tensor]:
    """index_TK of each site, -1 where a slot reaches no routed expert."""
    seen: dict[int, Tensor] = {}
    with RoutingTap(model.sites, lambda site, index, _: seen.update({site: index})):
        logits(model)
    return seen


def busiest(model: OpenModel, site: Site) -> list[int]:
    """The site's experts, those with most tokens first."""
    index_TK = routing(model)[site.index]
    count_E = torch.bincount(index_TK[index_TK >= 0], minlength=site.num_experts)
    return [int(e) for e in count_E.argsort(descending=True, stable=True)]


def block_output(model: OpenModel, site: Site) -> Tensor:
    """What leaves the block that holds the site's experts, one row a token."""
    block = model.model.get_submodule(site.name.rpartition(".")[0])
    if len(site.experts) > 1:  # several modules compute the experts, and the site is their block
        block = site.module
    found: list[Any] = []
    handle = block.register_forward_hook(lambda _m, _i, output: found.append(output))
    try:
        logits(model)
    finally:
        handle.remove()
    output = found[0][0] if isinstance(found[0], tuple) else found[0]
    out: Tensor = output.reshape(ids().numel(), -1)
    return out


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


def train(model: OpenModel, trainable: Any, steps: int = 2) -> None:
    model.model.train()
    optimizer = torch.optim.AdamW(trainable.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(steps):
        logits_BSV = model.model(input_ids=ids(), use_cache=False).logits
        loss = nn.functional.cross_entropy(logits_BSV[:, :-1].flatten(0, 1), ids()[:, 1:].flatten())
        loss.backward()
        trainable.after_backward()
        optimizer.step()
        trainable.after_step()
        optimizer.zero_grad()
    model.model.eval()
