"""Profiling an OLMoE-like model beside other ways to its counts, all in one run.

The shape is 8 layers x 64 experts, top-8, hidden 512, OLMoE's vocabulary, random weights; the text
is the bundled pack's. The reference is a bare packed forward of the backbone: every token in full
rows, no padding, no mask, nothing kept, at the row length that was fastest. TRACE's time holds all
that `profile` does, tokenizing and adding up included. The ways take turns and each round is
compared within itself, so that a busy moment of the machine hits all. `bench.others` adds other
packages where they are at hand.
"""

# Dims: B rows of a batch, S length, L MoE sites, E experts, D documents

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, OlmoeConfig, OlmoeForCausalLM

from bench import hardware
from bench.others import other_ways
from trace_engine.bundled import PACK
from trace_engine.config import ModelConfig, ProfileConfig, SetConfig
from trace_engine.models import OpenModel, backbone, encode, open_model
from trace_engine.routing import Profile, profile, scan, windows
from trace_engine.sets import DocumentSet, load, load_set, open_set

TARGET, TARGET_BF16, TARGET_STORED = 1.05, 0.65, 1.7
ROWS = (64, 128, 256, 512)
TOKENS = 8192
"""Padded tokens of a forward: the engine's default, and the packed forward's."""
ROWS_STORED = 32
"""Documents of a batch where logits are stored, in the set's order, padded to the longest."""
ROUNDING = 1e-5
"""Relative: what another batch's sums may differ by in float32, and no more."""
SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 256,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "vocab_size": 50304,
}


@dataclass(frozen=True, slots=True)
class Case:
    """What every way is given."""

    opened: OpenModel
    half: OpenModel
    """The same weights in bfloat16."""
    sets: tuple[DocumentSet, DocumentSet]
    config: ProfileConfig
    ids: list[tuple[int, ...]]
    """Token ids of every document of both sets, as the engine encodes them."""

    @property
    def tokens(self) -> int:
        return sum(len(one) for one in self.ids)


def save_model(folder: str | Path, **changes: Any) -> Path:
    """The OLMoE-like model, random, with the bundled tokenizer."""
    torch.manual_seed(0)
    OlmoeForCausalLM(OlmoeConfig(**(SHAPE | changes))).save_pretrained(folder)
    AutoTokenizer.from_pretrained(PACK / "models" / "target").save_pretrained(folder)
    return Path(folder)


def make_case(folder: Path, documents: int) -> Case:
    """Open the model in both precisions and encode `documents` of each bundled set."""
    forget = SetConfig(source="demo:forget", limit=documents)
    retain = SetConfig(source="demo:retain", limit=documents)
    config = ProfileConfig(model=ModelConfig(source=str(folder)), forget=forget, retain=retain)
    sets = load_set(forget), load_set(retain)
    opened, half = (
        open_model(ModelConfig(source=str(folder), device="cpu", dtype=dtype))
        for dtype in ("float32", "bfloat16")
    )
    ids = [
        item.ids
        for documents in sets
        for item in encode(opened.tokenizer, documents.texts, config.max_length, documents.prompts)
    ]
    return Case(opened, half, sets, config, ids)


@torch.no_grad()
def packed_forward(opened: OpenModel, ids: list[tuple[int, ...]], row: int) -> None:
    """Every token through the backbone in full rows of `row`: the least a forward can cost."""
    flat = torch.tensor([token for one in ids for token in one])
    rows_BS = flat[: len(flat) // row * row].view(-1, row)
    inner = backbone(opened.model)
    for chunk_BS in rows_BS.split(TOKENS // row):
        inner(input_ids=chunk_BS, use_cache=False)


@torch.no_grad()
def stored_logits(case: Case) -> list[tuple[Tensor, ...]]:
    """What transformers offers: the whole model, router logits asked for and kept."""
    return [
        tuple(logits[mask_BS.reshape(-1) == 1] for logits in output.router_logits)
        for mask_BS, output in _whole_model(case)
    ]


def _whole_model(case: Case) -> Iterator[tuple[Tensor, Any]]:
    for start in range(0, len(case.ids), ROWS_STORED):
        some = case.ids[start : start + ROWS_STORED]
        width = max(len(one) for one in some)
        ids_BS = torch.tensor([[*one, *[0] * (width - len(one))] for one in some])
        mask_BS = torch.tensor([[1] * len(one) + [0] * (width - len(one)) for one in some])
        yield (
            mask_BS,
            case.opened.model(
                input_ids=ids_BS, attention_mask=mask_BS, output_router_logits=True, use_cache=False
            ),
        )


def counts_of_logits(kept: list[tuple[Tensor, ...]], per_token: int) -> NDArray[np.int64]:
    """(L, E) chosen experts among stored logits; OLMoE takes the largest."""
    experts = kept[0][0].shape[-1]
    counts_LE = torch.zeros(len(kept[0]), experts, dtype=torch.long)
    for batch in kept:
        for site, logits in enumerate(batch):
            chosen = logits.topk(per_token).indices.reshape(-1)
            counts_LE[site] += torch.bincount(chosen, minlength=experts)
    return counts_LE.numpy()


def near_ties(kept: list[tuple[Tensor, ...]], per_token: int) -> int:
    """Tokens times sites whose last chosen and first rejected logit are within rounding."""
    total = 0
    for batch in kept:
        for logits in batch:
            best = logits.topk(per_token + 1).values
            total += int((best[:, -2] - best[:, -1] < ROUNDING * best[:, 0].abs()).sum())
    return total


def counts_of(found: Profile) -> NDArray[np.int64]:
    """(L, E) over both sets."""
    return np.asarray(
        found.forget.counts_DLE.sum(axis=0) + found.retain.counts_DLE.sum(axis=0), dtype=np.int64
    )


def moved(found: Profile, other: Profile) -> float:
    """Share of the per-document counts that another profile of the same documents has elsewhere."""
    different = total = 0
    for side in ("forget", "retain"):
        a, b = found.counts(side).counts_DLE, other.counts(side).counts_DLE
        different += int(np.abs(a - b).sum())
        total += int(a.sum())
    return different / (2 * total)


def measure(repetitions: int, documents: int, olmoe: str | None) -> dict[str, Any]:
    """Run all ways `repetitions` times in turn; raises AssertionError when TRACE's counts
    differ from those of the stored logits by more than near ties explain."""
    with TemporaryDirectory() as folder:
        case = make_case(save_model(folder), documents)
        row = _fastest_row(case)
        found: dict[str, Profile] = {}
        kept: list[list[tuple[Tensor, ...]]] = []
        ways: dict[str, Callable[[], Any]] = {
            "packed": lambda: packed_forward(case.opened, case.ids, row),
            "trace": lambda: found.update(trace=profile(case.opened, *case.sets, case.config)),
            "packed_bf16": lambda: packed_forward(case.half, case.ids, row),
            "trace_bf16": lambda: found.update(
                trace_bf16=profile(case.half, *case.sets, case.config)
            ),
            "stored": lambda: kept.append(stored_logits(case)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repetitions):
            for name, way in ways.items():
                kept.clear()
                seconds[name].append(timed(way))
        # The map leaves out BOS, which the stored logits hold; this comparison takes every token.
        whole = profile(case.opened, *case.sets, case.config.model_copy(update={"count_bos": True}))
        difference = int(np.abs(counts_of(whole) - counts_of_logits(kept[-1], 8)).sum())
        ties = near_ties(kept[-1], 8)
        others = [asdict(way) for way in other_ways(case.opened, case.ids, olmoe)]
    assert difference <= 2 * ties, f"{difference} counts differ from those of the stored logits"
    return {
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "documents": len(case.ids),
        "tokens": case.tokens,
        "row": row,
        "seconds": seconds,
        "rounds": repetitions,
        "difference": difference,
        "ties": ties,
        "choices": int(counts_of(whole).sum()),
        "moved_bf16": moved(found["trace"], found["trace_bf16"]),
        "logit_bytes_per_token": 4 * 64 * 8,
        "others": others,
        "memory": memory_growth(),
    }


def timed(way: Callable[[], Any]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def _fastest_row(case: Case) -> int:
    for row in ROWS:
        packed_forward(case.opened, case.ids[: len(case.ids) // 8], row)
    spent = {row: timed(lambda: packed_forward(case.opened, case.ids, row)) for row in ROWS}  # noqa: B023
    return min(spent, key=lambda row: spent[row])


def memory_growth(few_documents: int = 1500, many_documents: int = 9000) -> dict[str, Any]:
    """Peak memory of profiling a small and a large set, in bytes per token of the difference.

    Each in its own process, with a small model, streamed sets of equally long documents, and counts
    per block of documents, whose number is the same for both.
    """
    runs = []
    for documents in (few_documents, many_documents):
        command = [sys.executable, "-m", "bench.profile", "--peak", str(documents)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        runs.append(json.loads(output.splitlines()[-1]))
    (low, few), (high, many) = ((run["peak"], run["tokens"]) for run in runs)
    return {
        "tokens": [few, many],
        "peak_mib": [low / 2**20, high / 2**20],
        "bytes_per_token": (high - low) / (many - few),
    }


def peak(documents: int, words: int = 60) -> dict[str, int]:
    """Profile so many made-up documents a side, streamed, and say this process's peak memory.

    The engine holds one window of documents at a time, and counts per block in large sets; both
    limits are lowered here, so that a set of seconds meets them as a set of days would.
    """
    windows.WINDOW_CHARACTERS, windows.MOST_DOCUMENTS = 2**16, 1000
    scan.KEPT_TOKENS, load.STREAMED_BYTES = 0, 0
    text = (PACK / "sets" / "prose_other.jsonl").read_text(encoding="utf-8")
    vocabulary = sorted({word for word in text.split() if word.isalpha()})
    rng = np.random.default_rng(0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        small = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2}
        model = save_model(folder / "model", vocab_size=4096, **small)
        sets = {}
        for side in ("forget", "retain"):
            path = folder / f"{side}.jsonl"
            with path.open("w", encoding="utf-8") as file:
                for _ in range(documents):
                    file.write(json.dumps({"text": " ".join(rng.choice(vocabulary, words))}) + "\n")
            sets[side] = SetConfig(source=str(path))
        config = ProfileConfig(
            model=ModelConfig(source=str(model), device="cpu"),
            tokens_per_batch=2048,
            sample_tokens=1000,
            **sets,
        )
        opened = open_model(config.model)
        found = profile(opened, open_set(config.forget), open_set(config.retain), config)
    return {
        "peak": _peak_bytes(),
        "tokens": found.forget.tokens + found.retain.tokens,
    }


def _peak_bytes() -> int:
    """Of this program; `getrusage` would begin with the peak of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def show(figures: dict[str, Any]) -> Iterator[str]:
    """The figures as lines; every ratio is the median over rounds, with its range."""
    seconds, tokens = figures["seconds"], figures["tokens"]
    yield f"{figures['hardware']}; {figures['threads']} threads; {figures['rounds']} rounds"
    yield (
        f"{figures['documents']} documents, {tokens} tokens; {figures['difference'] // 2} of "
        f"{figures['choices']} choices differ from those of the stored router logits, which have "
        f"{figures['ties']} near ties (within {ROUNDING:g})"
    )
    names = {
        "packed": f"bare packed forward, rows of {figures['row']}, float32",
        "trace": "TRACE, float32",
        "packed_bf16": "bare packed forward, bfloat16",
        "trace_bf16": "TRACE, bfloat16",
        "stored": "whole model, output_router_logits=True, kept",
    }
    for key, name in names.items():
        yield f"{name:50} {statistics.median(seconds[key]):7.2f} s  {_over(seconds, key, 'packed')}"
    yield f"targets: float32 <= {TARGET}, bfloat16 <= {TARGET_BF16}"
    yield f"stored over TRACE: {_over(seconds, 'stored', 'trace')} (target >= {TARGET_STORED})"
    own = _over(seconds, "trace_bf16", "packed_bf16")
    yield f"bfloat16 over bfloat16's own packed forward: {own}"
    yield f"choices that bfloat16 moves to another expert: {100 * figures['moved_bf16']:.2f} %"
    base = statistics.median(seconds["trace"]) / tokens
    for other in figures["others"]:
        if other["seconds"] is None:
            yield f"{other['name']}: {other['note']}"
            continue
        each = other["seconds"] / other["tokens"]
        yield (
            f"{other['name']}: {each / base:.1f} x TRACE's time a token ({other['tokens']} tokens, "
            f"{other['seconds']:.1f} s). {other['note']}"
        )
    memory = figures["memory"]
    yield (
        f"peak memory of {memory['tokens'][0]} and {memory['tokens'][1]} tokens: "
        f"{memory['peak_mib'][0]:.0f} and {memory['peak_mib'][1]:.0f} MiB, "
        f"{memory['bytes_per_token']:.1f} bytes a token; stored router logits here: "
        f"{figures['logit_bytes_per_token']}"
    )


def _over(seconds: dict[str, list[float]], above: str, below: str) -> str:
    ratios = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--documents", type=int, default=600, help="of each bundled set")
    parser.add_argument("--olmoe", help="allenai/OLMoE's scripts/run_moe_analysis.py")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        print(json.dumps(peak(arguments.peak)))
        return
    figures = measure(arguments.repetitions, arguments.documents, arguments.olmoe)
    print(json.dumps(figures) if arguments.json else "\n".join(show(figures)))


if __name__ == "__main__":
    main()
