"""Other packages that count routing, run as their own documentation says, where they are at hand.

None of them is a requirement of TRACE. `pip install --no-deps moewatch MixtureKit` makes two of
them available; allenai/OLMoE's analysis is a script, whose path is given.
"""

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from trace_engine.models import OpenModel

Ids = Sequence[tuple[int, ...]]
DOCUMENTS = 200
"""Of the case's documents, evenly spread: some of these ways are slow."""
ROWS = 32
"""Documents of a padded batch, where a way takes batches."""
LENGTH = 2048
"""Tokens of a row in allenai/OLMoE's script."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One other way."""

    name: str
    seconds: float | None
    """None: it did not run."""
    tokens: int
    note: str
    """What it counts, or why it did not run."""


def other_ways(opened: OpenModel, ids: Ids, olmoe: str | None) -> Iterator[Measured]:
    """Each in turn; what is not installed or refuses the model says so."""
    some = ids[:: max(1, len(ids) // DOCUMENTS)]
    yield from _try("moewatch", lambda: _moewatch(opened, some))
    yield from _try("MixtureKit", lambda: _mixturekit(opened, some))
    if olmoe is None:
        yield Measured("allenai/OLMoE", None, 0, "not run: give --olmoe the path of its script.")
    else:
        yield from _try("allenai/OLMoE", lambda: _olmoe(opened, ids, Path(olmoe)))


def _try(name: str, way: Callable[[], Measured]) -> Iterator[Measured]:
    try:
        yield way()
    except ImportError as error:
        yield Measured(name, None, 0, f"not run: {error}.")


def _moewatch(opened: OpenModel, ids: Ids) -> Measured:
    moewatch = import_module("moewatch")
    batches = []
    for start in range(0, len(ids), ROWS):
        some = ids[start : start + ROWS]
        width = max(len(one) for one in some)
        batches.append(
            {
                "input_ids": torch.tensor([[*one, *[0] * (width - len(one))] for one in some]),
                "attention_mask": torch.tensor(
                    [[1] * len(one) + [0] * (width - len(one)) for one in some]
                ),
            }
        )
    # Left to itself it hooks the block, takes its hidden output for logits, and counts columns of
    # hidden states; the routers are named for it.
    routers = [f"model.layers.{site.layer}.mlp.gate" for site in opened.sites]
    settings = moewatch.WatchConfig(output="silent", sample_every=1, router_modules=routers)
    start_time = time.perf_counter()
    moewatch.audit(opened.model, batches, steps=len(batches), config=settings, verbose=False)
    spent = time.perf_counter() - start_time
    note = "Counts the first choice only, padding included, over all documents together."
    return Measured("moewatch", spent, sum(map(len, ids)), note)


def _mixturekit(opened: OpenModel, ids: Ids) -> Measured:
    routing = import_module("MixtureKit.routing")
    model = opened.model
    texts = [opened.tokenizer.decode(one, skip_special_tokens=True) for one in ids]
    try:
        routing.trace_routing(model, opened.tokenizer, texts[0])
        note = ""
    except ValueError as error:
        note = f"Refuses models it did not merge ({error}); run through an adapter. "
    blocks = [
        _Block(opened.model.get_submodule(f"model.layers.{s.layer}.mlp")) for s in opened.sites
    ]
    model.config.moe_method = "btx"
    model.__dict__["_routed_modules"] = blocks
    try:
        start = time.perf_counter()
        for text in texts:
            routing.trace_routing(model, opened.tokenizer, text)
        spent = time.perf_counter() - start
    finally:
        del model.config.moe_method
        del model.__dict__["_routed_modules"]
    note += "One text at a time, weights of every expert kept for every token."
    return Measured("MixtureKit", spent, sum(map(len, ids)), note)


class _Block:
    """A routed block as MixtureKit's hooks expect it: a gate that gives logits alone."""

    def __init__(self, block: nn.Module) -> None:
        gate: Any = block.get_submodule("gate")

        def register(hook: Callable[..., None]) -> Any:
            return gate.register_forward_hook(lambda module, args, out: hook(module, args, out[0]))

        self.gate = SimpleNamespace(register_forward_hook=register)


def _olmoe(opened: OpenModel, ids: Ids, path: Path) -> Measured:
    if not path.is_file():
        raise ImportError(f"{path.name} is not a file")
    # Written for 16 layers; its checks are the only lines that say so.
    layers = len(opened.sites)
    source = path.read_text(encoding="utf-8").replace("== 16", f"== {layers}")
    source = source.replace("(2048, 8, 16)", f"(2048, 8, {layers})")
    spec = importlib.util.spec_from_loader("olmoe_analysis", loader=None)
    assert spec is not None
    script: Any = importlib.util.module_from_spec(spec)
    exec(compile(source, path.name, "exec"), script.__dict__)
    flat = [token for one in ids for token in one]
    rows = [flat[at : at + LENGTH] for at in range(0, 2 * LENGTH, LENGTH)]
    script.load_model = lambda *args, **kwargs: opened.model
    script.load_c4 = lambda *args: iter(rows)
    with TemporaryDirectory() as folder:
        arguments = SimpleNamespace(out_dir=folder, model="olmoe", tokenized_path="")
        start = time.perf_counter()
        script.run(arguments, "main")
        spent = time.perf_counter() - start
    note = "Rows of 2,048 tokens; every choice of every token is kept and written as text."
    return Measured("allenai/OLMoE", spent, sum(map(len, rows)), note)
