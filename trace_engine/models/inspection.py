"""Everything that can be said about a model before it is loaded, gathered for page and command.

What a model is (`ModelInfo`), how it routes, what memory it needs against what is free, and what
TRACE can do with it. Trade-off: support is told from the shell, so a router that proves impossible
to re-route is only found out by a forward pass, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from trace_engine.adapters import NO_ADAPTERS
from trace_engine.config import ModelConfig
from trace_engine.errors import ModelError
from trace_engine.models.files import locate, too_little_disk, weights_size
from trace_engine.models.fit import check_headers
from trace_engine.models.info import ModelInfo
from trace_engine.models.memory import (
    Machine,
    MemoryNeed,
    free_on,
    machine_memory,
    memory_need,
    too_little,
)
from trace_engine.models.open import (
    choose_place,
    describe,
    experts_implementation,
    open_model,
    open_tokenizer,
    outline,
    why_no_forward,
)
from trace_engine.models.parts import fused_names
from trace_engine.models.probe import NOT_WITHOUT_DATA, asks_for_values
from trace_engine.models.quantised import check_stored, quantised_options
from trace_engine.models.routers import UNKNOWN, router_kinds
from trace_engine.models.settings import shared_settings
from trace_engine.models.site import Site
from trace_engine.models.sites import expert_parameters, find_sites, unmapped_blocks
from trace_engine.progress import Progress, ProgressCallback, ignore_progress
from trace_engine.spelling import size
from trace_engine.stored import STAYS_PACKED, UNPACKED, stays_packed

Answer = Literal["yes", "no", "not known before loading"]


@dataclass(frozen=True, slots=True)
class Support:
    """Whether one thing works on this model."""

    what: str
    """`tap`, `drop`, `reroute`, `selected experts`, `lora`."""
    answer: Answer
    why: str
    """One clause; empty where the answer needs none."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """A model as it stands before loading; `to_dict` is plain JSON."""

    info: ModelInfo
    routers: tuple[str, ...]
    """Kind of router of each site."""
    shared: dict[str, int]
    """What config.json says of shared experts, their number and width, in its own words."""
    need: MemoryNeed
    machine: Machine
    memory_problem: str | None
    """Why its weights cannot be loaded, or fetched, here; None where they can."""
    support: tuple[Support, ...]
    notes: tuple[str, ...]
    """What else a person should know, as sentences."""

    def to_dict(self) -> dict[str, Any]:
        sites = [
            {"layer": layer, "experts": experts, "experts_per_token": chosen, "router": router}
            for layer, experts, chosen, router in zip(
                self.info.layers,
                self.info.num_experts,
                self.info.experts_per_token,
                self.routers,
                strict=True,
            )
        ]
        return self.info.to_dict() | {
            "sites": sites,
            "shared_settings": self.shared,
            "memory": self.need.to_dict() | {"free": self.machine.to_dict()},
            "memory_problem": self.memory_problem,
            "support": [
                {"what": item.what, "answer": item.answer, "why": item.why} for item in self.support
            ],
            "notes": list(self.notes),
        }


def inspect_closely(
    config: ModelConfig, *, hashed: bool = True, report: ProgressCallback = ignore_progress
) -> Inspection:
    """Look at a model without loading its weights; raises ModelError as `inspect_model` does.

    A hub model's weights are not fetched: listing and headers tell what is asked of them. Without
    `hashed`, no weights file is read either: an answer in seconds for a model of any size, without
    a fingerprint. Too little memory, or room on the disk to fetch them, is reported, not raised.
    """
    _say(report, "finding the model's files", 0)
    files = locate(config.source, config.revision)
    _say(report, "building the model's outline", 1)
    model = outline(files, config)
    check_stored(files)
    quantised_options(config, model)
    check_headers(files, model)
    open_tokenizer(files, model)
    experts = experts_implementation(config, model)
    sites = find_sites(model)
    weigh = partial(
        memory_need,
        quantization=config.quantization,
        mapped=weights_size(files),
        packed=stays_packed(files.config),
    )
    need = weigh(model, sites, (0,) * len(sites))
    place = choose_place(config.device, need)
    _say(report, "hashing its files" if hashed else "asking its routers", 2)
    notes = []
    try:
        info = describe(files, model, sites, config, place, experts, hashed=hashed)
    except NOT_WITHOUT_DATA as error:
        if not asks_for_values(error):
            raise ModelError(why_no_forward(files, model, error)) from None
        # No type of the installed transformers comes here; memory is compared before it loads.
        _say(report, "loading the weights, which this family needs to be looked at", 2)
        opened = open_model(config, hashed=hashed)
        info, model, sites = opened.info, opened.model, opened.sites
        notes.append("This family cannot be looked at without its weights, so they were loaded.")
    kinds = router_kinds(model, sites)
    if not notes:  # a loaded quantised model's bytes are packed
        need = weigh(model, sites, info.experts_per_token)
    machine = machine_memory()
    return Inspection(
        info=info,
        routers=kinds,
        shared=shared_settings(model.config.get_text_config()),
        need=need,
        machine=machine,
        memory_problem=too_little(files.source, need, place, config, machine)
        or too_little_disk(files),
        support=support_of(sites, kinds, packed=stays_packed(files.config)),
        notes=(
            *notes,
            *_unmapped(model),
            *_mixed(model),
            *_notes(info, need, free_on(machine, place)),
        ),
    )


def support_of(
    sites: Sequence[Site], kinds: Sequence[str], *, packed: bool = False
) -> tuple[Support, ...]:
    """What TRACE can do with a model of these sites, as far as its shell tells; `packed` weights
    stay as they are stored."""
    untold = sorted(
        {site.layer for site, kind in zip(sites, kinds, strict=True) if kind == UNKNOWN}
    )
    reroute = Support("reroute", "yes", "")
    if untold:
        reroute = Support(
            "reroute",
            "not known before loading",
            f"how layers {_listed(untold)} choose cannot be told; the first forward proves it",
        )
    loose = sorted({site.layer for site in sites if not expert_parameters(site)})
    flat = sorted({site.layer for site in sites if not fused_names(site)})
    return (
        Support("tap", "yes", ""),
        Support("drop", "yes", ""),
        reroute,
        *_training(loose, flat, packed),
    )


def _training(loose: list[int], flat: list[int], packed: bool) -> tuple[Support, Support]:
    if packed:
        return Support("selected experts", "no", STAYS_PACKED), Support("lora", "no", STAYS_PACKED)
    return (
        _unless(loose, "selected experts", "their experts are not on a tensor's first dimension"),
        _unless(flat, "lora", NO_ADAPTERS),
    )


def _unless(layers: list[int], what: str, why: str) -> Support:
    return (
        Support(what, "no", f"layers {_listed(layers)}: {why}")
        if layers
        else Support(what, "yes", "")
    )


def _listed(layers: Sequence[int]) -> str:
    shown = ", ".join(str(layer) for layer in layers[:4])
    return shown if len(layers) <= 4 else f"{shown} and {len(layers) - 4} more"


def _unmapped(model: Any) -> list[str]:
    """One sentence a reason for routed blocks that are no row of the map."""
    blocks: dict[str, int] = {}
    for why in unmapped_blocks(model).values():
        blocks[why] = blocks.get(why, 0) + 1
    return [f"{number} routed blocks are not on the map: {why}." for why, number in blocks.items()]


def _mixed(model: Any) -> list[str]:
    """What float16 leaves open where a family keeps some tensors in float32."""
    dtypes = [p.dtype for p in model.parameters() if p.is_floating_point()]
    kept = dtypes.count(torch.float32)
    if torch.float16 not in dtypes or not kept:
        return []
    return [
        f"In float16, transformers keeps {kept} of this family's tensors in float32. Whether its "
        "code runs so, only a first forward tells; bfloat16 or float32 is safer."
    ]


def _notes(info: ModelInfo, need: MemoryNeed, free: int) -> list[str]:
    notes = []
    if info.stored_as in UNPACKED:
        notes.append(
            f"The checkpoint is stored as {info.stored_as} ({size(need.mapped)} of files) and is "
            f"unpacked to {info.dtype} while loading: the memory said here is that of the unpacked "
            "weights."
        )
    elif info.stored_as:
        notes.append(
            f"The checkpoint is stored as {info.stored_as} ({size(need.mapped)} of files) and "
            f"stays packed in memory, for profiling and evaluation: the memory said here is that "
            f"of unpacked {info.dtype} weights, the most that it can take."
        )
    if info.quantization != "none":
        notes.append(
            f"{size(need.quantised)} of linear layers are in {info.quantization}; the routed "
            f"experts ({size(need.experts)}) keep {info.dtype}, because they are fused tensors."
        )
    if info.device == "spread":
        notes.append(
            "No single GPU has room for the weights, so they are spread over all of them and main "
            "memory: for profiling and evaluation, not for training."
        )
    if need.loading <= free < need.weights + need.batch:
        notes.append(
            f"The weights fit, but a profiling batch of {need.tokens:,} tokens may not: lower "
            "tokens_per_batch."
        )
    return notes


def _say(report: ProgressCallback, phase: str, done: int) -> None:
    report(Progress(phase, done, 3, "steps", None, None))
