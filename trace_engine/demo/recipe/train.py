"""Trains one of the pack's models from scratch: target, retrain_no_hazard or retrain_no_book.

Seeded and resumable: a checkpoint (safetensors and JSON) replaces the last one after each epoch,
and a killed training goes on from it. One thread by default, so that the result does not depend on
how many cores happen to be free.
"""

# Dims: B documents, T tokens, N = B*T rows, P predicted tokens, E experts, K experts per token,
# D hidden, V vocabulary

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

from trace_engine.demo.recipe.batches import Batch, encode, epoch_batches, train_tokenizer
from trace_engine.demo.recipe.build_sets import VARIANTS, training_documents
from trace_engine.evaluation.multiple_choice import score_questions
from trace_engine.sets.questions import read_questions

PACK = Path(__file__).resolve().parents[1] / "pack"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Everything that shapes a model besides its documents."""

    vocabulary: int = 4096
    layers: int = 4
    hidden: int = 128
    heads: int = 4
    experts: int = 32
    experts_per_token: int = 4
    intermediate: int = 64
    balance: float = 0.001
    """Coefficient of the load-balancing loss."""
    documents_per_batch: int = 32
    learning_rate: float = 2e-3
    warmup: float = 0.08
    """Share of the steps over which the learning rate rises; it falls to zero by a cosine after."""
    weight_decay: float = 0.01
    clip: float = 1.0
    epochs: int = 30
    seed: int = 0


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> OlmoeForCausalLM:
    """The untrained model; its weights follow from the seed."""
    torch.manual_seed(recipe.seed)
    config = OlmoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        num_experts=recipe.experts,
        num_experts_per_tok=recipe.experts_per_token,
        norm_topk_prob=True,
        router_aux_loss_coef=recipe.balance,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    return OlmoeForCausalLM(config)


def load_balancing_loss(logits_NE: Tensor, mask_N: Tensor, top_k: int) -> Tensor:
    """E times the dot product of load share and mean probability over real tokens; 1 if uniform.

    Switch Transformer (arXiv 2101.03961) equations 4 to 6, per layer, with the K choices averaged.
    """
    probabilities_NE = logits_NE[mask_N].float().softmax(-1)
    chosen_NK = probabilities_NE.topk(top_k, dim=-1).indices
    experts = logits_NE.shape[-1]
    load_E = torch.bincount(chosen_NK.flatten(), minlength=experts).float() / chosen_NK.numel()
    return experts * (load_E * probabilities_NE.mean(0)).sum()


def losses(
    model: OlmoeForCausalLM, batch: Batch, router_logits: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy over real next tokens, and the layers' mean load-balancing loss."""
    router_logits.clear()
    hidden_BTD = model.model(input_ids=batch.ids_BT, use_cache=False).last_hidden_state
    predicts_BT = batch.mask_BT[:, 1:]
    logits_PV = model.lm_head(hidden_BTD[:, :-1][predicts_BT])
    cross_entropy = F.cross_entropy(logits_PV, batch.ids_BT[:, 1:][predicts_BT])
    top_k = model.config.num_experts_per_tok
    balance = [
        load_balancing_loss(logits_NE, batch.mask_BT.flatten(), top_k)
        for logits_NE in router_logits
    ]
    return cross_entropy, torch.stack(balance).mean()


@contextmanager
def recorded_router_logits(model: OlmoeForCausalLM) -> Iterator[list[Tensor]]:
    """A list that holds the router logits (N, E) of each layer after a forward pass."""
    found: list[Tensor] = []
    handles = [
        layer.mlp.gate.register_forward_hook(lambda _m, _i, output: found.append(output[0]))
        for layer in model.model.layers
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def mix(model: nn.Module, folder: Path, kept: float) -> None:
    """Pull a fresh model's weights towards those in `folder`, by the share `kept`: seen from there,
    shrink and perturb (Ash and Adams 2020, arXiv 1910.08475)."""
    found = dict(OlmoeForCausalLM.from_pretrained(folder).named_parameters())
    for name, parameter in model.named_parameters():
        parameter.lerp_(found[name], kept)


def train(
    variant: str,
    recipe: Recipe,
    work: Path,
    out: Path,
    *,
    evaluate_every: int = 4,
    start: Path | None = None,
    kept: float = 0.5,
) -> None:
    """Train a variant, from the checkpoint in `work` if there is one; save the model to `out`.
    With `start` the first weights are that model's by a share of `kept`."""
    started, before = time.monotonic(), 0.0
    work.mkdir(parents=True, exist_ok=True)
    texts = [row["text"] for row in training_documents(PACK / "extract", PACK, "target")]
    tokenizer = train_tokenizer(texts, recipe.vocabulary)
    rows = training_documents(PACK / "extract", PACK, variant)
    documents = encode(tokenizer, [row["text"] for row in rows])
    model = build_model(recipe, tokenizer)
    if start is not None:
        mix(model, start, kept)
    names = dict(model.named_parameters())
    optimizer = _optimizer(model, recipe)
    first, log = 0, work / "training_log.jsonl"
    if (work / "state.json").exists():
        first, before = _resume(work, recipe, names, optimizer)
    elif log.exists():
        log.unlink()
    steps_per_epoch = math.ceil(len(documents) / recipe.documents_per_batch)
    questions = read_questions(PACK / "questions" / "validation.jsonl")
    with recorded_router_logits(model) as router_logits:
        for epoch in range(first, recipe.epochs):
            model.train()
            total, tokens, balance_total = 0.0, 0, 0.0
            batches = epoch_batches(
                documents,
                size=recipe.documents_per_batch,
                pad_id=tokenizer.pad_token_id,
                seed=recipe.seed,
                epoch=epoch,
            )
            for number, batch in enumerate(batches):
                rate = _rate(recipe, epoch * steps_per_epoch + number, steps_per_epoch)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                cross_entropy, balance = losses(model, batch, router_logits)
                loss = cross_entropy + recipe.balance * balance
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                count = int(batch.mask_BT[:, 1:].sum())
                total, tokens = total + cross_entropy.item() * count, tokens + count
                balance_total += balance.item() / len(batches)
            entry: dict[str, Any] = {
                "epoch": epoch + 1,
                "loss": round(total / tokens, 4),
                "balance": round(balance_total, 4),
                "tokens": tokens,
            }
            if (epoch + 1) % evaluate_every == 0 or epoch + 1 == recipe.epochs:
                router_logits.clear()
                scores = score_questions(model, tokenizer, questions).by_category()
                entry["validation"] = {name: round(acc.value, 4) for name, acc in scores.items()}
            entry["seconds"] = round(before + time.monotonic() - started, 1)
            with log.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(entry) + "\n")
            _checkpoint(work, recipe, epoch + 1, entry["seconds"], names, optimizer)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "training_log.jsonl").write_text(log.read_text())
    (out / "recipe.json").write_text(
        json.dumps({"variant": variant, "documents": len(documents), **asdict(recipe)}, indent=1)
        + "\n"
    )


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.AdamW:
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay},
              {"params": rest, "weight_decay": 0.0}]  # fmt: skip
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)


def _rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """One-cycle learning rate: linear up, cosine down to 1 % of the peak."""
    total = recipe.epochs * steps_per_epoch
    rise = max(1, int(recipe.warmup * total))
    if step < rise:
        return recipe.learning_rate * (step + 1) / rise
    share = (step - rise) / max(1, total - rise)
    return recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def _checkpoint(
    work: Path, recipe: Recipe, epoch: int, seconds: float,
    names: dict[str, nn.Parameter], optimizer: torch.optim.AdamW,
) -> None:  # fmt: skip
    """Replace the checkpoint in two atomic steps; `state.json` names its tensors file."""
    tensors = {f"model.{name}": parameter.detach() for name, parameter in names.items()}
    for name, parameter in names.items():
        for key in ("exp_avg", "exp_avg_sq", "step"):
            tensors[f"{key}.{name}"] = optimizer.state[parameter][key]
    file = f"checkpoint-{epoch}.safetensors"
    save_file(tensors, work / f"{file}.tmp")
    os.replace(work / f"{file}.tmp", work / file)
    state = {"epoch": epoch, "seconds": seconds, "tensors": file, "recipe": asdict(recipe)}
    (work / "state.json.tmp").write_text(json.dumps(state))
    os.replace(work / "state.json.tmp", work / "state.json")
    for old in work.glob("checkpoint-*.safetensors"):
        if old.name != file:
            old.unlink()


def _resume(
    work: Path, recipe: Recipe, names: dict[str, nn.Parameter], optimizer: torch.optim.AdamW
) -> tuple[int, float]:
    """Load the checkpoint: epochs done, seconds spent. Raises ValueError on another recipe."""
    state = json.loads((work / "state.json").read_text())
    if state["recipe"] != asdict(recipe):
        raise ValueError(f"{work} holds a training of another recipe: {state['recipe']}.")
    tensors = load_file(work / state["tensors"])
    with torch.no_grad():
        for name, parameter in names.items():
            parameter.copy_(tensors[f"model.{name}"])
            optimizer.state[parameter] = {
                key: tensors[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq", "step")
            }
    log = work / "training_log.jsonl"
    lines = log.read_text().splitlines(keepends=True)[: state["epoch"]]
    log.write_text("".join(lines))
    return state["epoch"], state["seconds"]


def main(arguments: list[str] | None = None) -> None:
    """Command line: `python -m trace_engine.demo.recipe.train --variant target --work DIR`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS, required=True)
    parser.add_argument("--epochs", type=int, default=Recipe().epochs)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=Recipe().learning_rate)
    parser.add_argument("--documents-per-batch", type=int, default=Recipe().documents_per_batch)
    parser.add_argument("--start", type=Path, help="a model's folder to start from, in part")
    parser.add_argument("--kept", type=float, default=0.5, help="of its weights, by this share")
    parser.add_argument("--work", type=Path, required=True, help="checkpoints go here")
    parser.add_argument("--out", type=Path, default=None, help="default: the pack's model folder")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = Recipe(
        epochs=options.epochs,
        seed=options.seed,
        learning_rate=options.learning_rate,
        documents_per_batch=options.documents_per_batch,
    )
    out = options.out or PACK / "models" / options.variant
    train(options.variant, recipe, options.work, out, start=options.start, kept=options.kept)


if __name__ == "__main__":
    main()
