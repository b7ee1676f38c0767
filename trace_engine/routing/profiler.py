"""Runs both sets through the backbone once and keeps how every token was routed.

No lm_head, no stored router logits, documents sorted by length: profiling costs about as much as a
bare forward. Accepted cost: `no_grad` instead of `inference_mode`, because rotary tables that a
model rebuilds during a forward would stay inference tensors and break a later training of the same
model.

Dims: B documents of a batch, S padded length, D documents, L MoE sites, K experts per token.
"""

from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from trace_engine.config import ProfileConfig
from trace_engine.errors import ModelError
from trace_engine.models import (
    Batch,
    OpenModel,
    RoutingTap,
    backbone,
    experts_skipped,
    make_batches,
)
from trace_engine.models.memory import enough_memory, memory_need
from trace_engine.progress import Meter, ProgressCallback, ignore_progress
from trace_engine.routing import windows as cut
from trace_engine.routing.counts import MAX_TOKEN_CELLS, Tally, tracked_ids
from trace_engine.routing.key import profile_key
from trace_engine.routing.profile import Profile, RoutingCounts, TokenSample
from trace_engine.routing.sampling import SampleTaker
from trace_engine.routing.scan import Scan, encode_window, scan_side
from trace_engine.routing.shards import Say, Shards, keep_quiet
from trace_engine.routing.storage import SCHEMA, Arrays
from trace_engine.routing.totals import Total, window_part
from trace_engine.routing.workers import ALONE, Workers
from trace_engine.sets import Documents

FOLDED = 8
"""Finished windows that are added to the running total on disk at once: work folders stay small."""


def profile_model(
    opened: OpenModel,
    forget: Documents,
    retain: Documents,
    config: ProfileConfig,
    report: ProgressCallback = ignore_progress,
) -> Profile:
    """Routing of both sets, per document; see `trace_engine.routing.profile`."""
    result = _profile(opened, {"forget": forget, "retain": retain}, config, None, ALONE, report)
    assert result is not None
    return result


def profile_in_parts(
    opened: OpenModel,
    forget: Documents,
    retain: Documents,
    config: ProfileConfig,
    work: Path,
    workers: Workers = ALONE,
    report: ProgressCallback = ignore_progress,
    say: Say = keep_quiet,
) -> Profile | None:
    """The same, with finished windows kept under `work`: see `routing.profile_in_parts`."""
    sets = {"forget": forget, "retain": retain}
    shards = Shards(work, say)
    if workers.leads:
        shards.prepare(_identity(opened, sets, config))
    workers.wait()
    shards.check_shared()
    result = _profile(opened, sets, config, shards, workers, report)
    if result is not None:
        shards.remove()
    return result


def _profile(
    opened: OpenModel,
    sets: Mapping[str, Documents],
    config: ProfileConfig,
    shards: Shards | None,
    workers: Workers,
    report: ProgressCallback,
) -> Profile | None:
    skip_bos = None if config.count_bos else opened.tokenizer.bos_token_id
    scans = {
        side: scan_side(
            opened.tokenizer, documents, config, skip_bos, side, shards, workers, report
        )
        for side, documents in sets.items()
    }
    info = opened.info
    token_ids_V = tracked_ids(
        scans["forget"].counted_V,
        scans["retain"].counted_V,
        len(info.layers),
        max(info.num_experts),
    )
    was_training = opened.model.training
    opened.model.eval()
    need = memory_need(
        opened.model, opened.sites, info.experts_per_token, tokens=config.tokens_per_batch
    )
    try:
        with enough_memory(info.source, need, info.device, config.model, running="profiling"):
            sides = [
                _Side(opened, sets[side], scans[side], token_ids_V, skip_bos, config, side, shards)
                for side in sets
            ]
            for side in sides:
                side.run(workers, report)
            workers.wait()
            if not workers.leads:
                return None
            done = {side.name: side.result(report) for side in sides}
    finally:
        opened.model.train(was_training)
    mentioned = set(token_ids_V.tolist())
    for _, sample in done.values():
        mentioned |= set(np.unique(sample.token_N).tolist())
    return Profile(
        meta=_meta(opened, sets, config, {side: counts for side, (counts, _) in done.items()}),
        layers=info.layers,
        num_experts_L=info.num_experts,
        experts_per_token_L=info.experts_per_token,
        forget=done["forget"][0],
        retain=done["retain"][0],
        sample_forget=done["forget"][1],
        sample_retain=done["retain"][1],
        token_text=token_texts(opened.tokenizer, sorted(mentioned)),
    )


def token_texts(tokenizer: Any, ids: Sequence[int]) -> dict[int, str]:
    """Text of each token id, a leading space kept; the tokenizer's own spelling of partial
    characters."""
    texts = {}
    for number in ids:
        spelling = tokenizer.convert_ids_to_tokens(number)
        text = tokenizer.decode([number], clean_up_tokenization_spaces=False)
        if spelling is None or "\ufffd" in text:
            text = str(spelling if spelling is not None else f"<{number}>")
        elif spelling.startswith("\u2581") and not text.startswith(" "):
            text = f" {text}"
        texts[number] = text
    return texts


class _Side:
    """One side on its way: windows are routed, kept, and added up in the order of the set."""

    def __init__(
        self,
        opened: OpenModel,
        documents: Documents,
        scan: Scan,
        token_ids_V: NDArray[np.int64],
        skip_bos: int | None,
        config: ProfileConfig,
        name: str,
        shards: Shards | None,
    ) -> None:
        self.name = name
        self._opened, self._documents, self._scan = opened, documents, scan
        self._token_ids_V, self._skip_bos, self._config = token_ids_V, skip_bos, config
        self._shards = shards
        self._total = Total(scan, token_ids_V)
        self._sampled = {item.document for item in scan.drawn}
        self._fired: list[int] = []
        self._cut_short = False
        self._tally: Tally | None = None
        self._taker: SampleTaker | None = None

    def run(self, workers: Workers, report: ProgressCallback) -> None:
        """Route this process's windows; the leading process adds up what is there."""
        if self._shards and workers.leads:
            self._take_folded()
        # Nobody may look for finished windows while the leading process takes them in.
        workers.wait()
        todo = self._unfinished(workers)
        workers.wait()
        tokens = sum(self._scan.tokens[index] for index in todo)
        meter = Meter(f"profiling {self.name} set", tokens, "tokens", report)
        with closing(self._routed(todo, meter)) as routed:
            for index, part in routed:
                if self._shards is None:
                    self._total.add(part)
                    continue
                self._shards.write(self._shard(index), part)
                if workers.leads:
                    self._fold()

    def result(self, report: ProgressCallback) -> tuple[RoutingCounts, TokenSample]:
        """Counts and sample of the side, once every process is done.

        A part that was damaged after it was written is routed again here, and only it.
        """
        while self._total.windows < len(self._scan.tokens):
            index = self._total.windows
            part = self._shards.read(self._shard(index)) if self._shards else None
            if part is None:
                meter = Meter(
                    f"profiling {self.name} set", self._scan.tokens[index], "tokens", report
                )
                [(_, part)] = self._routed({index}, meter)
            self._total.add(part)
        return self._total.result()

    def _routed(self, todo: Collection[int], meter: Meter) -> Generator[tuple[int, Arrays]]:
        """These windows of the set, each with what its tokens chose."""
        if not todo:
            return
        self._fired, self._cut_short = [], False
        with (
            torch.no_grad(),
            RoutingTap(self._opened.sites, self._on_routing),
            ExitStack() as stack,
        ):
            for window in cut.windows(self._documents.stream()):
                if window.index in todo:
                    yield window.index, self._route(window, meter, stack)

    def _shard(self, index: int) -> str:
        return f"{self.name}-counts-{index:06d}"

    def _take_folded(self) -> None:
        """Begin with the running total of an interrupted profile; the newest sound one counts."""
        assert self._shards is not None
        for name in sorted(self._shards.names(), reverse=True):
            if not name.startswith(f"{self.name}-sum-"):
                continue
            part = None if self._total.windows else self._shards.read(name)
            if part is not None:
                self._total.add(part, windows=int(name.rpartition("-")[2]))
            else:
                self._shards.drop(name)

    def _unfinished(self, workers: Workers) -> set[int]:
        """This process's windows that are neither in the total nor whole on disk."""
        own = [index for index in range(len(self._scan.tokens)) if workers.does(index)]
        if self._shards is None:
            return set(own)
        there = self._shards.names()
        folded = [name for name in there if name.startswith(f"{self.name}-sum-")]
        first = max((int(name.rpartition("-")[2]) for name in folded), default=0)
        todo = set()
        for index in own:
            name = self._shard(index)
            if index >= first and (name not in there or self._shards.read(name) is None):
                todo.add(index)
        return todo

    def _fold(self) -> None:
        """When enough windows follow the total, add them and keep the total in their place."""
        assert self._shards is not None
        there = self._shards.names()
        first = last = self._total.windows
        while self._shard(last) in there:
            last += 1
        if last - first < FOLDED:
            return
        for index in range(first, last):
            part = self._shards.read(self._shard(index))
            if part is None:
                break
            self._total.add(part)
        windows = self._total.windows
        if windows == first:
            return  # the first of them is damaged: `result` routes it again
        self._shards.write(f"{self.name}-sum-{windows:06d}", self._total.part())
        for name in there:
            kind, _, number = name.rpartition("-")
            if kind in (f"{self.name}-sum", f"{self.name}-counts") and int(number) < windows:
                self._shards.drop(name)

    def _route(self, window: cut.Window, meter: Meter, stack: ExitStack) -> Arrays:
        """Run a window through the backbone and count it."""
        info, device = self._opened.info, self._opened.device
        encoded = self._scan.kept.pop(window.index, None)
        if encoded is None:
            encoded = encode_window(self._opened.tokenizer, window, self._config)
        names = tuple(document.id for document in window.documents)
        row_D = None
        if cut.in_blocks(self._scan.documents):
            row_D = np.array([cut.block_of(document.text) for document in window.documents])
            names = cut.block_names()
        places = range(window.start, window.start + len(window.documents))
        chosen_D = np.array([place in self._sampled for place in places])
        tally = Tally(
            names, info.experts_per_token, max(info.num_experts), self._token_ids_V, device, row_D
        )
        taker = SampleTaker(chosen_D, info.experts_per_token)
        self._tally, self._taker = tally, taker
        inner = backbone(self._opened.model)
        for batch in make_batches(encoded, self._config.tokens_per_batch):
            if not self._cut_short and sorted(self._fired) == list(range(len(info.layers))):
                # The first forward called every site once and said which one comes last: nothing
                # routes after its router, so its experts need not be computed.
                stack.enter_context(experts_skipped(self._opened.sites[self._fired[-1]]))
                self._cut_short = True
            tokens = int(batch.attention_mask_BS.sum())
            batch = batch.to(device)
            counted_BS, labelled_BS = masks(batch, self._skip_bos)
            tally.start(batch.input_ids_BS, counted_BS, batch.document_B)
            taker.start(
                batch.input_ids_BS, batch.valid_BS, counted_BS, labelled_BS, batch.document_B
            )
            inner(**batch.inputs, use_cache=False)
            missing = set(range(len(info.layers))) - tally.finish()
            if missing:
                layers = ", ".join(str(info.layers[site]) for site in sorted(missing))
                raise ModelError(
                    f"{info.source}: layers {layers} routed no token of a batch, so their counts "
                    "would be wrong. Nothing was profiled."
                )
            if tally.broken:
                layers = ", ".join(str(info.layers[site]) for site in sorted(tally.broken))
                raise ModelError(
                    f"{info.source}: gate weights of layers {layers} are not finite numbers, so "
                    "its routing means nothing. Its weights are damaged or overflow in "
                    f"{info.dtype}."
                )
            taker.finish()
            meter.add(tokens)
        counts = tally.result(sum(item.truncated for item in encoded))
        return window_part(counts, taker.result(), window.start)

    def _on_routing(self, site: int, index_TK: Tensor, weight_TK: Tensor) -> None:
        if len(self._fired) <= len(self._opened.sites):
            self._fired.append(site)
        assert self._tally is not None
        assert self._taker is not None
        self._tally.add(site, index_TK, weight_TK)
        self._taker.add(site, index_TK, weight_TK)


def masks(batch: Batch, skip_bos: int | None) -> tuple[Tensor, Tensor]:
    """Map mask and calibration mask of a batch, both bool (B, S).

    Map: real tokens, less a leading `skip_bos`. Calibration: real positions t whose label t + 1 is
    in the loss, BOS included.
    """
    counted_BS = batch.valid_BS.clone()
    if skip_bos is not None:
        counted_BS[:, 0] &= batch.input_ids_BS[:, 0] != skip_bos
    labelled_BS = torch.zeros_like(counted_BS)
    labelled_BS[:, :-1] = batch.labels_BS[:, 1:] != -100
    return counted_BS, labelled_BS & batch.valid_BS


def _key(opened: OpenModel, sets: Mapping[str, Documents], config: ProfileConfig) -> str:
    prints = (sets[side].fingerprint for side in ("forget", "retain"))
    return profile_key(config, opened.info.fingerprint, *prints)


def _versions() -> dict[str, str]:
    return {
        # By name: a static import of the package from one of its rooms would be a cycle.
        "trace": str(import_module("trace_engine").__version__),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
    }


def _identity(
    opened: OpenModel, sets: Mapping[str, Documents], config: ProfileConfig
) -> dict[str, Any]:
    """What must be the same for shards of an earlier attempt to be of use."""
    return {
        "key": _key(opened, sets, config),
        "schema": SCHEMA,
        "window": [cut.WINDOW_DOCUMENTS, cut.WINDOW_CHARACTERS],
        "blocks": [cut.MOST_DOCUMENTS, cut.BLOCKS],
        "max_token_cells": MAX_TOKEN_CELLS,
        "device": opened.device.type,
        "versions": _versions(),
    }


def _meta(
    opened: OpenModel,
    sets: Mapping[str, Documents],
    config: ProfileConfig,
    counts: dict[str, RoutingCounts],
) -> dict[str, Any]:
    return {
        "key": _key(opened, sets, config),
        "model": opened.info.to_dict(),
        "sets": {
            side: {
                "name": documents.name,
                "source": documents.source,
                "fingerprint": documents.fingerprint,
                "documents": len(documents),
                "blocks": len(counts[side].tokens_D) if counts[side].unit == "block" else None,
                "tokens": counts[side].tokens,
                "truncated": counts[side].truncated_documents,
                "token_coverage": counts[side].token_coverage,
            }
            for side, documents in sets.items()
        },
        "settings": config.model_dump(mode="json", exclude={"name"}),
        "max_token_cells": MAX_TOKEN_CELLS,
        "versions": _versions(),
    }
