"""The first pass over a set, without the model: lengths, token ids, which documents are sampled.

Which token ids get a row of their own, and which documents are kept token by token, depends on the
whole set, so it must be known before the first window is routed. Accepted cost: a set that is too
large to keep as token ids is tokenized twice.

Dims: V token ids.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trace_engine.config import ProfileConfig
from trace_engine.errors import InputError
from trace_engine.models import Encoded, encode
from trace_engine.progress import Meter, ProgressCallback
from trace_engine.routing.sampling import Drawn, least
from trace_engine.routing.shards import Shards
from trace_engine.routing.storage import Arrays
from trace_engine.routing.windows import Window, in_blocks, windows
from trace_engine.routing.workers import Workers
from trace_engine.sets import Documents, DocumentSet

KEPT_TOKENS = 2**22
"""Tokens of a side that stay encoded between the two passes: small sets are tokenized once."""


@dataclass(slots=True)
class Scan:
    """What is known of a side before it is routed."""

    documents: int = 0
    ids: list[str] = field(default_factory=list)
    """Document ids, kept only where a row of the counts is a document."""
    tokens: list[int] = field(default_factory=list)
    """Tokens of each window, special ones included."""
    counted_V: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """How often a counted token has each id."""
    drawn: list[Drawn] = field(default_factory=list)
    """The documents to sample, in the order of the draw."""
    kept: dict[int, list[Encoded]] = field(default_factory=dict)
    """Windows that are still encoded."""

    def add(self, part: Arrays, limit: int) -> None:
        """Take in the next window."""
        told = json.loads(part["told"].tobytes())
        self.documents += told["documents"]
        self.ids += told["ids"]
        self.tokens.append(told["tokens"])
        size = int(part["seen_V"].max(initial=-1)) + 1
        if size > len(self.counted_V):
            self.counted_V = np.pad(self.counted_V, (0, size - len(self.counted_V)))
        self.counted_V[part["seen_V"]] += part["times_V"]
        more = [Drawn(bytes.fromhex(place), *rest) for place, *rest in told["drawn"]]
        self.drawn = least(self.drawn + more, limit, spare=1)


def scan_side(
    tokenizer: Any,
    documents: Documents,
    config: ProfileConfig,
    skip_bos: int | None,
    side: str,
    shards: Shards | None,
    workers: Workers,
    report: ProgressCallback,
) -> Scan:
    """Read a whole side. With several processes, all come back with the same result.

    Raises InputError when a document id occurs twice or no document has a token to count.
    """
    _check_ids(documents)
    by_block = in_blocks(len(documents))
    there = shards.names() if shards else set()
    found, number, room = Scan(), 0, KEPT_TOKENS
    meter = Meter(f"reading {side} set", len(documents), "documents", report)
    for window in windows(documents.stream()):
        number = window.index + 1
        if window.index:  # a set of one window is read in no time
            meter.add(len(window.documents))
        else:
            meter.done = len(window.documents)
        if not workers.does(window.index):
            continue
        name = f"{side}-scan-{window.index:06d}"
        part = shards.read(name) if shards and name in there else None
        if part is None:
            encoded = encode_window(tokenizer, window, config)
            part = _part(window, encoded, skip_bos, config, by_block)
            room -= json.loads(part["told"].tobytes())["tokens"]
            if room >= 0:
                found.kept[window.index] = encoded
            if shards:
                shards.write(name, part)
        if workers.size == 1:
            found.add(part, config.sample_tokens)
    workers.wait()
    if workers.size > 1:
        assert shards is not None
        for index in range(number):
            part = shards.read(f"{side}-scan-{index:06d}")
            if part is None:
                raise InputError(
                    f"{documents.name}: a part that another process has just written cannot be "
                    "read. Check the disk under TRACE_HOME and start again; finished parts stay."
                )
            found.add(part, config.sample_tokens)
        # Nobody may begin to change the folder while another still reads.
        workers.wait()
    found.drawn = least(found.drawn, config.sample_tokens)
    if not found.counted_V.sum():
        raise InputError(
            f"{documents.name}: no document of the {side} set has a token to count. "
            "Nothing was profiled."
        )
    return found


def encode_window(tokenizer: Any, window: Window, config: ProfileConfig) -> list[Encoded]:
    """Token ids of a window's documents."""
    texts = [document.text for document in window.documents]
    prompts = [document.prompt for document in window.documents]
    return encode(tokenizer, texts, config.max_length, prompts)


def _part(
    window: Window,
    encoded: Sequence[Encoded],
    skip_bos: int | None,
    config: ProfileConfig,
    by_block: bool,
) -> Arrays:
    parts = [item.ids[1:] if item.ids and item.ids[0] == skip_bos else item.ids for item in encoded]
    counted_T = np.fromiter((number for part in parts for number in part), dtype=np.int64)
    times_V = np.bincount(counted_T)
    seen_V = np.flatnonzero(times_V)
    ids = [document.id for document in window.documents]
    drawn = (
        Drawn.of(config.seed, name, window.start + number, len(item.ids))
        for number, (name, item) in enumerate(zip(ids, encoded, strict=True))
    )
    told = {
        "documents": len(ids),
        "ids": [] if by_block else ids,
        "tokens": sum(len(item.ids) for item in encoded),
        "drawn": [
            (item.place.hex(), item.document_id, item.document, item.length)
            for item in least(drawn, config.sample_tokens, spare=1)
        ],
    }
    return {
        "told": np.frombuffer(json.dumps(told).encode(), dtype=np.uint8),
        "seen_V": seen_V,
        "times_V": times_V[seen_V],
    }


def _check_ids(documents: Documents) -> None:
    # A set that streams has made its ids unique while it was read.
    if not isinstance(documents, DocumentSet):
        return
    seen = Counter(document.id for document in documents.documents)
    twice = [name for name, times in seen.items() if times > 1]
    if twice:
        raise InputError(
            f"{documents.name}: {len(twice)} document ids occur twice (for example {twice[0]!r}). "
            "Each document needs an id of its own. Nothing was profiled."
        )
