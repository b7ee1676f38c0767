"""OLMoE-1B-7B's real shape on a GPU, random weights in bfloat16; and counts beside the CPU's.

Profiling by the engine and a bare forward of the backbone over the same batches take turns; the
device is waited for around each. The second part profiles a small float32 model on both devices,
with TF32 off: sums in another order may turn near ties, so the number of counts that differ is
printed beside the number of counts. Without a GPU nothing is measured, and that is said.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, OlmoeConfig, OlmoeForCausalLM

from bench import hardware
from trace_engine.bundled import PACK
from trace_engine.config import ModelConfig, ProfileConfig, SetConfig
from trace_engine.models import (
    Batch,
    ModelInfo,
    OpenModel,
    backbone,
    encode,
    find_sites,
    make_batches,
)
from trace_engine.models.sites import experts_per_token
from trace_engine.routing import Profile, profile
from trace_engine.sets import DocumentSet, load_set

ABSENT = (
    "No CUDA device here: nothing was measured. On a machine with one, run `python -m bench.gpu`."
)
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts": 16,
    "num_experts_per_tok": 4,
}
"""The model whose counts are compared; everything else is OLMoE's."""


def random_model(device: str, dtype: torch.dtype, **changes: Any) -> OpenModel:
    """OLMoE-1B-7B's shape with `changes`, random and never on disk; the bundled tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(PACK / "models" / "target")
    config = OlmoeConfig(**changes)
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = OlmoeForCausalLM._from_config(config, dtype=dtype)
    model.set_experts_implementation("grouped_mm")
    model.eval()
    sites = find_sites(model)
    info = ModelInfo(
        source="random OLMoE",
        revision=None,
        architecture=type(model).__name__,
        model_type=config.model_type,
        parameters=sum(p.numel() for p in model.parameters()),
        layers=tuple(site.layer for site in sites),
        num_experts=tuple(site.num_experts for site in sites),
        experts_per_token=experts_per_token(model, sites),
        expert_parameters=(0,) * len(sites),
        shared_experts=False,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        experts_implementation="grouped_mm",
        vocab_size=config.vocab_size,
        fingerprint="random",
        files={},
    )
    return OpenModel(model, tokenizer, sites, info)


def settings(documents: int | None, tokens_per_batch: int) -> ProfileConfig:
    """The bundled sets, so many documents of each."""
    return ProfileConfig(
        model=ModelConfig(source="demo:target"),
        forget=SetConfig(source="demo:forget", limit=documents),
        retain=SetConfig(source="demo:retain", limit=documents),
        tokens_per_batch=tokens_per_batch,
    )


def speed(opened: OpenModel, config: ProfileConfig, repetitions: int) -> dict[str, Any]:
    """Seconds of profiling and of a bare forward over the same batches, in turn."""
    sets = load_set(config.forget), load_set(config.retain)
    batches = [
        batch.to(opened.device)
        for documents in sets
        for batch in make_batches(
            encode(opened.tokenizer, documents.texts, config.max_length), config.tokens_per_batch
        )
    ]
    _bare(opened, batches[:2])
    on_gpu = opened.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(opened.device)
    bare, whole = [], []
    for _ in range(repetitions):
        bare.append(_timed(lambda: _bare(opened, batches)))
        whole.append(_timed(lambda: profile(opened, *sets, config)))
    return {
        "tokens": sum(int(batch.attention_mask_BS.sum()) for batch in batches),
        "bare_seconds": bare,
        "profile_seconds": whole,
        "ratios": [b / a for a, b in zip(bare, whole, strict=True)],
        "peak_bytes": torch.cuda.max_memory_allocated(opened.device) if on_gpu else None,
        "weight_bytes": sum(p.numel() * p.element_size() for p in opened.model.parameters()),
    }


@torch.no_grad()
def _bare(opened: OpenModel, batches: list[Batch]) -> None:
    inner = backbone(opened.model)
    for batch in batches:
        inner(**batch.inputs, use_cache=False)


def _timed(work: Callable[[], Any]) -> float:
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def counts_on(device: str, documents: int | None = 200) -> Profile:
    """The small model's float32 profile on `device`; the CPU's generator gives the weights."""
    torch.backends.cuda.matmul.allow_tf32 = False
    opened = random_model("cpu", torch.float32, initializer_range=0.2, **SMALL)
    opened.model.to(device)
    config = settings(documents, 8192)
    sets: tuple[DocumentSet, DocumentSet] = load_set(config.forget), load_set(config.retain)
    return profile(opened, *sets, config)


def differing(one: Profile, other: Profile) -> tuple[int, int]:
    """Choices that went to another expert, and all choices, over both sides."""
    sides = [(one.counts(side), other.counts(side)) for side in ("forget", "retain")]
    moved = sum(int(np.abs(a.counts_DLE - b.counts_DLE).sum()) for a, b in sides)
    return moved // 2, sum(int(a.counts_DLE.sum()) for a, _ in sides)


def show(figures: dict[str, Any]) -> str:
    """The figures as text."""
    run, tokens = figures["speed"], figures["speed"]["tokens"]
    per_second = [tokens / seconds for seconds in run["profile_seconds"]]
    peak = run["peak_bytes"]
    moved, choices = figures["differing"]
    lines = [
        f"{figures['gpu']}; {figures['hardware']}; torch {torch.__version__}",
        f"OLMoE-1B-7B's shape, {figures['parameters'] / 1e9:.1f} G parameters, random, bfloat16",
        f"profile  {statistics.median(per_second):,.0f} tokens/s "
        f"({min(per_second):,.0f} to {max(per_second):,.0f}; {tokens} tokens, {len(per_second)} x)",
        f"over a bare forward  {statistics.median(run['ratios']):.3f} "
        f"({min(run['ratios']):.3f} to {max(run['ratios']):.3f})",
        f"weights {run['weight_bytes'] / 2**30:.1f} GiB, peak "
        + ("unknown" if peak is None else f"{peak / 2**30:.1f} GiB"),
        f"small model, float32: {moved} of {choices} choices differ between GPU and CPU",
    ]
    return "\n".join(lines)


def measure(repetitions: int, documents: int | None, tokens_per_batch: int) -> dict[str, Any]:
    """Both parts on the first CUDA device."""
    opened = random_model("cuda", torch.bfloat16)
    figures: dict[str, Any] = {
        "hardware": hardware(),
        "gpu": torch.cuda.get_device_name(),
        "parameters": opened.info.parameters,
        "speed": speed(opened, settings(documents, tokens_per_batch), repetitions),
    }
    del opened
    torch.cuda.empty_cache()
    return figures | {"differing": differing(counts_on("cpu"), counts_on("cuda"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--documents", type=int, help="of each bundled set; all when not given")
    parser.add_argument("--tokens-per-batch", type=int, default=32768)
    parser.add_argument("--require", action="store_true", help="fail where there is no GPU")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print(ABSENT)
        return 1 if arguments.require else 0
    figures = measure(arguments.repetitions, arguments.documents, arguments.tokens_per_batch)
    print(json.dumps(figures) if arguments.json else show(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
