"""Profiling beside a bare forward of the backbone over the same batches: the target is a ratio of
1.2.

Alternating repetitions in one process, the least of each side compared, so that a busy moment of
the machine hits both. The bundled model and sets are used where the pack has its model, else random
weights of the same shape; that choice is printed. Counts of every repetition must be identical;
times are only printed.
"""

import argparse
import json
import time
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench import hardware
from trace_engine.bundled import PACK
from trace_engine.config import ModelConfig, ProfileConfig, SetConfig
from trace_engine.models import Batch, OpenModel, backbone, encode, make_batches, open_model
from trace_engine.routing import Profile, mismatch, profile
from trace_engine.sets import DocumentSet, load_set

TARGET = 1.2


def measure(repetitions: int = 3, limit: int | None = None) -> dict[str, Any]:
    """Run the comparison and return its figures; raises AssertionError when counts differ."""
    forget = SetConfig(source="demo:forget", limit=limit)
    retain = SetConfig(source="demo:retain", limit=limit)
    sets = load_set(forget), load_set(retain)
    with TemporaryDirectory() as folder:
        source, kind = _model(folder)
        opened = open_model(ModelConfig(source=source, device="cpu"))
    config = ProfileConfig(model=ModelConfig(source=source), forget=forget, retain=retain)
    bare, whole, kept = [], [], None
    batches = _batches(opened, sets, config)
    _bare_forward(opened, batches[:2])
    for _ in range(repetitions):
        start = time.perf_counter()
        tokens = _bare_forward(opened, batches)
        bare.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = profile(opened, *sets, config)
        whole.append(time.perf_counter() - start)
        _assert_same_counts(found, kept)
        kept = found
    assert kept is not None
    start = time.perf_counter()
    mismatch(kept)
    return {
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "model": kind,
        "documents": sum(len(documents.documents) for documents in sets),
        "tokens": tokens,
        "bare_seconds": min(bare),
        "profile_seconds": min(whole),
        "ratio": min(whole) / min(bare),
        "ratio_of_each_pair": [b / a for a, b in zip(bare, whole, strict=True)],
        "target_ratio": TARGET,
        "mismatch_seconds": time.perf_counter() - start,
    }


def _model(folder: str) -> tuple[str, str]:
    if (PACK / "models" / "target").is_dir():
        return "demo:target", "the bundled model"
    from tests.support.models import save_tiny_olmoe

    save_tiny_olmoe(folder, layers=4, experts=32, top_k=4, hidden=128)
    return folder, "random weights (the pack has no model yet), byte tokenizer"


def _batches(
    opened: OpenModel, sets: tuple[DocumentSet, ...], config: ProfileConfig
) -> list[Batch]:
    """Made outside the timing: the bare forward is charged for nothing else."""
    made: list[Batch] = []
    for documents in sets:
        encoded = encode(opened.tokenizer, documents.texts, config.max_length, documents.prompts)
        made.extend(make_batches(encoded, config.tokens_per_batch))
    return made


@torch.no_grad()
def _bare_forward(opened: OpenModel, batches: list[Batch]) -> int:
    """Run the backbone over the batches, keep nothing; returns the number of real tokens."""
    inner = backbone(opened.model)
    for batch in batches:
        inner(**batch.inputs, use_cache=False)
    return sum(int(batch.attention_mask_BS.sum()) for batch in batches)


def _assert_same_counts(found: Profile, before: Profile | None) -> None:
    if before is None:
        return
    for side in ("forget", "retain"):
        a, b = found.counts(side), before.counts(side)
        for name in ("counts_DLE", "coactivation_LEE", "token_counts_VLE", "tokens_D"):
            assert np.array_equal(getattr(a, name), getattr(b, name)), f"{side} {name} differ"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--limit", type=int, help="documents per side")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.repetitions, arguments.limit)
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"{figures['model']}; {figures['hardware']}; {figures['threads']} threads")
    print(f"{figures['documents']} documents, {figures['tokens']} tokens, counts identical")
    print(f"bare forward of the backbone  {figures['bare_seconds']:7.2f} s")
    print(f"profile                       {figures['profile_seconds']:7.2f} s")
    pairs = ", ".join(f"{ratio:.2f}" for ratio in figures["ratio_of_each_pair"])
    print(f"ratio {figures['ratio']:.3f} (target <= {TARGET}); of each pair: {pairs}")
    print("(a ratio below 1, or pairs far apart, say that the machine was busy with other work)")
    print(f"map (tests and intervals)     {figures['mismatch_seconds']:7.2f} s")


if __name__ == "__main__":
    main()
