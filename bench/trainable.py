"""What training 2 of 64 experts costs beside training everything: target 0.35.

Copies of one random OLMoE of 64 experts a layer take whole updates (forward, backward, AdamW) in
turn, there and back, on the same tokens; the claim is the median of the rounds' ratios. Forward is
paid by all, and backward through the activations down to the lowest layer that trains; so two
experts of every layer and of the last layer only are measured, at two sizes of batch, and beside
them a forward alone, below which nothing can come. Nothing is asserted. Beside other work, count
one thread's processor time instead (`--processor-time`).
"""

import argparse
import statistics
import time
from collections.abc import Callable
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


Clock = Callable[[], float]


class Trainee:
    """One model with its trainable set and optimizer."""

    def __init__(self, source: str, kind: str, layers: slice, clock: Clock) -> None:
        self._clock = clock
        config = TrainableConfig.model_validate({"kind": kind})
        self.opened: OpenModel = open_model(ModelConfig(source=source, device="cpu"))
        sites = self.opened.sites[layers]
        cells = [Cell(site.layer, expert) for site in sites for expert in CHOSEN]
        self.part: Trainable = make_trainable(self.opened, config, cells)
        self._adam = torch.optim.AdamW(self.part.parameters(), lr=1e-4, fused=True)

    def update(self, ids_BS: Tensor) -> float:
        """Seconds of one update."""
        start = self._clock()
        self._adam.zero_grad(set_to_none=True)
        torch.autograd.backward(self._loss(ids_BS))
        self.part.after_backward()
        self._adam.step()
        self.part.after_step()
        return self._clock() - start

    def forward(self, ids_BS: Tensor) -> float:
        """Seconds of a forward without gradients."""
        start = self._clock()
        with torch.no_grad():
            self._loss(ids_BS)
        return self._clock() - start

    def _loss(self, ids_BS: Tensor) -> Tensor:
        logits_BSV = self.opened.model(input_ids=ids_BS, use_cache=False).logits
        return torch.nn.functional.cross_entropy(
            logits_BSV[:, :-1].flatten(0, 1), ids_BS[:, 1:].flatten()
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--processor-time", action="store_true")
    given = parser.parse_args()
    rounds: int = given.rounds
    clock = time.perf_counter
    if given.processor_time:
        torch.set_num_threads(1)
        clock = time.process_time
    with TemporaryDirectory() as folder:
        random_model(folder)
        everything = Trainee(folder, "all", slice(0), clock)
        kind = "selected_experts"
        parts = {
            "2 of 64 in every layer": Trainee(folder, kind, slice(None), clock),
            "2 of 64 in the last layer": Trainee(folder, kind, slice(-1, None), clock),
        }
    counted = "processor time" if given.processor_time else "time on the clock"
    print(f"{hardware()}; {torch.get_num_threads()} threads; {counted}")
    print(
        f"{LAYERS} layers of {EXPERTS} experts, {everything.part.summary.parameters:,} parameters"
    )
    every = {"everything": everything.update, **{name: t.update for name, t in parts.items()}}
    every["a forward alone"] = everything.forward
    for tokens in given.tokens:
        generator = torch.Generator().manual_seed(tokens)
        ids_BS = torch.randint(4, 4000, (tokens // 64, 64), generator=generator)
        seconds: dict[str, list[float]] = {name: [] for name in every}
        for number in range(-2, rounds):
            order = list(every.items())
            for name, work in order if number % 2 else order[::-1]:
                spent = work(ids_BS)
                if number >= 0:
                    seconds[name].append(spent)
        whole = seconds.pop("everything")
        print(f"{tokens:,} tokens an update: everything {statistics.median(whole):.3f} s")
        for name, spent_each in seconds.items():
            ratios = [a / b for a, b in zip(spent_each, whole, strict=True)]
            trained = (
                f" ({parts[name].part.summary.parameters:,} parameters)" if name in parts else ""
            )
            target = f"; target <= {TARGET}" if name in parts else ""
            print(
                f"  {name}{trained} {statistics.median(spent_each):.3f} s, median ratio "
                f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}, "
                f"{rounds} rounds{target})"
            )


if __name__ == "__main__":
    main()
