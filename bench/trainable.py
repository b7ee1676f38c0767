"""What training 2 of 64 experts costs beside training everything: target 0.35.

Copies of one random OLMoE of 64 experts a layer take whole updates (forward, backward, AdamW) in
turn, there and back, on the same tokens; the claim is the median of the rounds' ratios. Forward is
paid by all, and backward through the activations down to the lowest layer that trains; so two
experts of every layer and of the last layer only are measured, at two sizes of batch. Nothing is
asserted.
"""

import argparse
import statistics
import time
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from bench import hardware
from trace_engine.config import Cell, ModelConfig, TrainableConfig
from trace_engine.models import OpenModel, Trainable, make_trainable, open_model

LAYERS, EXPERTS, HIDDEN, CHOSEN = 4, 64, 256, (5, 40)
TARGET = 0.35
TOKENS = (512, 2048)
"""Tokens of an update."""


def random_model(folder: str) -> None:
    """Weights and tokenizer of the measured shape: about 28 million parameters."""
    from trace_engine.bundled import PACK
    from trace_engine.demo.recipe.batches import train_tokenizer
    from trace_engine.demo.recipe.build_sets import training_documents
    from trace_engine.demo.recipe.train import Recipe, build_model

    recipe = Recipe(
        layers=LAYERS, experts=EXPERTS, hidden=HIDDEN, intermediate=HIDDEN // 2, heads=8
    )
    texts = [row["text"] for row in training_documents(PACK / "extract", PACK, "target")]
    tokenizer = train_tokenizer(texts, recipe.vocabulary)
    build_model(recipe, tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Trainee:
    """One model with its trainable set and optimizer."""

    def __init__(self, source: str, kind: str, layers: slice) -> None:
        config = TrainableConfig.model_validate({"kind": kind})
        self.opened: OpenModel = open_model(ModelConfig(source=source, device="cpu"))
        sites = self.opened.sites[layers]
        cells = [Cell(site.layer, expert) for site in sites for expert in CHOSEN]
        self.part: Trainable = make_trainable(self.opened, config, cells)
        self._adam = torch.optim.AdamW(self.part.parameters(), lr=1e-4, fused=True)

    def update(self, ids_BS: Tensor) -> float:
        """Seconds of one update."""
        start = time.perf_counter()
        self._adam.zero_grad(set_to_none=True)
        logits_BSV = self.opened.model(input_ids=ids_BS, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits_BSV[:, :-1].flatten(0, 1), ids_BS[:, 1:].flatten()
        )
        torch.autograd.backward(loss)
        self.part.after_backward()
        self._adam.step()
        self.part.after_step()
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds: int = parser.parse_args().rounds
    with TemporaryDirectory() as folder:
        random_model(folder)
        everything = Trainee(folder, "all", slice(0))
        parts = {
            "2 of 64 in every layer": Trainee(folder, "selected_experts", slice(None)),
            "2 of 64 in the last layer": Trainee(folder, "selected_experts", slice(-1, None)),
        }
    print(f"{hardware()}; {torch.get_num_threads()} threads")
    print(
        f"{LAYERS} layers of {EXPERTS} experts, {everything.part.summary.parameters:,} parameters"
    )
    every = {"everything": everything, **parts}
    for tokens in TOKENS:
        generator = torch.Generator().manual_seed(tokens)
        ids_BS = torch.randint(4, 4000, (tokens // 64, 64), generator=generator)
        seconds: dict[str, list[float]] = {name: [] for name in every}
        for number in range(-2, rounds):
            order = list(every.items())
            for name, trainee in order if number % 2 else order[::-1]:
                spent = trainee.update(ids_BS)
                if number >= 0:
                    seconds[name].append(spent)
        whole = seconds["everything"]
        print(f"{tokens:,} tokens an update: everything {statistics.median(whole):.3f} s")
        for name, part in parts.items():
            ratios = [a / b for a, b in zip(seconds[name], whole, strict=True)]
            print(
                f"  {name} ({part.part.summary.parameters:,} parameters) "
                f"{statistics.median(seconds[name]):.3f} s, median ratio "
                f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, "
                f"{rounds} rounds; target <= {TARGET})"
            )


if __name__ == "__main__":
    main()
