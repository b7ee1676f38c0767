"""An update on an OLMoE-like shape: TRACE's weights over none (target 1.03), a session over a bare
loop of the same loss (1.05), and over locuslab/open-unlearning's trainer where its code is given.

The shape is `bench.profile`'s, random weights; sets are the bundled ones, 16 documents a side. Each
pair trains two copies of the model on the same documents, a step of each in turn, there and back;
the claim is the median of the pairs' ratios. open-unlearning's trainer is run by transformers'
`Trainer` on the batches that the session draws, one session step after each of its own. Nothing is
asserted.
"""

# Dims: B documents, S positions

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, SequentialSampler
from transformers import TrainerCallback, TrainingArguments

from bench import hardware
from bench.profile import save_model
from trace_engine.config import UnlearnConfig
from trace_engine.models import Batch, collate
from trace_engine.routing import Profile
from trace_engine.unlearning import Session
from trace_engine.unlearning.schedule import FORGET, RETAIN, DocumentOrder

TARGET_WEIGHTS, TARGET_LOOP = 1.03, 1.05
METHODS = ("graddiff", "npo")
WARM = 2
"""Steps of each before the clock counts."""
DOCUMENTS = 400
"""Of each set: enough for the steps, quick to profile."""
BETA, RATE, CLIP = 0.1, 1e-4, 1.0


@dataclass(frozen=True, slots=True)
class Ratio:
    """Seconds of one way over another's, from steps in turn."""

    what: str
    method: str
    seconds: float
    reference_seconds: float
    """Medians."""
    median: float
    low: float
    high: float
    """Quartiles of the pairs' ratios."""
    pairs: int
    target: float | None
    note: str = ""


def configuration(source: Path, method: str, rule: str, steps: int) -> UnlearnConfig:
    """Everything trains; nothing but the weighting rule differs between two of these."""
    return UnlearnConfig.model_validate(
        {
            "model": {"source": str(source), "device": "cpu"},
            "forget": {"source": "demo:forget", "limit": DOCUMENTS},
            "retain": {"source": "demo:retain", "limit": DOCUMENTS},
            "method": method,
            "beta": BETA if method == "npo" else None,
            "weights": {"rule": rule},
            "max_steps": steps,
            "learning_rate": RATE,
            "grad_clip": CLIP,
            "evaluation": {"max_documents": 2},
        }
    )


class Drawn:
    """The documents of a session's steps, as the session itself draws them."""

    def __init__(self, session: Session) -> None:
        config, setup = session.config, session.setup
        self._sides = [
            (documents.training, DocumentOrder(config.seed, side, len(documents.training), size))
            for side, documents, size in (
                (FORGET, setup.forget, config.batch_size),
                (RETAIN, setup.retain, config.batch_size),
            )
        ]

    def batch(self, step: int) -> tuple[Batch, Batch]:
        """Forget and retain documents of a step."""
        forget, retain = (collate(encoded, order.batch(step)) for encoded, order in self._sides)
        return forget, retain


class BareLoop:
    """The least code that makes the same update: two forwards, one loss, AdamW."""

    def __init__(self, session: Session, method: str) -> None:
        self._model, self._method, self._drawn = session.opened.model, method, Drawn(session)
        self._step = 0
        self._adam = torch.optim.AdamW(
            self._model.parameters(), lr=RATE, weight_decay=0.0, fused=True
        )
        # As in the session: the start model is asked once, before the first step.
        self._reference: list[Tensor] = []
        if method == "npo":
            with torch.no_grad():
                for step in range(session.config.max_steps):
                    self._reference.append(self._nll(self._drawn.batch(step)[0]).sum(dim=1))

    def train_step(self) -> float:
        """Seconds of one update."""
        start = time.perf_counter()
        forget, retain = self._drawn.batch(self._step)
        self._adam.zero_grad(set_to_none=True)
        nll_BT = self._nll(forget)
        if self._method == "npo":
            gap_B = nll_BT.sum(dim=1) - self._reference[self._step]
            loss = -(2 / BETA) * functional.logsigmoid(BETA * gap_B).mean()
        else:
            loss = -(nll_BT.sum() / (forget.labels_BS[:, 1:] != -100).sum())
        torch.autograd.backward(loss)
        torch.autograd.backward(self._nll(retain).sum() / (retain.labels_BS[:, 1:] != -100).sum())
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIP)
        self._adam.step()
        self._step += 1
        return time.perf_counter() - start

    def _nll(self, batch: Batch) -> Tensor:
        logits_BSV = self._model(
            input_ids=batch.input_ids_BS,
            attention_mask=batch.attention_mask_BS,
            use_cache=False,
        ).logits
        labels_BT = batch.labels_BS[:, 1:]
        return functional.cross_entropy(
            logits_BSV[:, :-1].flatten(0, 1), labels_BT.flatten(), reduction="none"
        ).view(labels_BT.shape)


def in_turn(
    one: Callable[[], float], other: Callable[[], float], pairs: int
) -> tuple[list[float], list[float]]:
    """Seconds of both, a step of each in turn, there and back, warm ones dropped."""
    seconds: tuple[list[float], list[float]] = ([], [])
    ways = (one, other)
    for number in range(-WARM, pairs):
        for index in (0, 1) if number % 2 else (1, 0):
            spent = ways[index]()
            if number >= 0:
                seconds[index].append(spent)
    return seconds


def ratio(what: str, method: str, one: list[float], other: list[float], **rest: Any) -> Ratio:
    """Medians and the pairs' ratio."""
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return Ratio(
        what,
        method,
        statistics.median(one),
        statistics.median(other),
        middle,
        low,
        high,
        len(ratios),
        **rest,
    )


def seconds_of(session: Session) -> Callable[[], float]:
    """A step of a session, by the outside clock."""

    def step() -> float:
        start = time.perf_counter()
        session.train_step()
        return time.perf_counter() - start

    return step


def weights_ratio(source: Path, method: str, pairs: int, kept: Profile) -> Ratio:
    """`exact` weights with live routing over the unweighted method."""
    weighted, plain = (
        Session(configuration(source, method, rule, pairs + WARM), profile=kept)
        for rule in ("exact", "uniform")
    )
    with weighted, plain:
        found = in_turn(seconds_of(weighted), seconds_of(plain), pairs)
    return ratio("TRACE's weights over none", method, *found, target=TARGET_WEIGHTS)


def loop_ratio(source: Path, method: str, pairs: int, kept: Profile) -> Ratio:
    """A weighted session over the bare loop of the unweighted loss."""
    session, other = (
        Session(configuration(source, method, rule, pairs + WARM), profile=kept)
        for rule in ("exact", "uniform")
    )
    with session, other:
        bare = BareLoop(other, method)
        found = in_turn(seconds_of(session), bare.train_step, pairs)
    return ratio("a weighted session over a bare loop", method, *found, target=TARGET_LOOP)


# open-unlearning ----------------------------------------------------------------------------------


def trainer_class(folder: Path, method: str) -> type[Any]:
    """open-unlearning's trainer of a method, from a checkout, adapted to today's transformers.

    Its package's own `__init__` asks for its configuration packages, which a trainer does not need.
    Raises ImportError when something else is missing.
    """
    package = ModuleType("trainer")
    package.__path__ = [str(folder / "src" / "trainer")]
    sys.modules["trainer"] = package
    home, name = {"graddiff": ("grad_diff", "GradDiff"), "npo": ("npo", "NPO")}[method]
    found: type[Any] = getattr(importlib.import_module(f"trainer.unlearn.{home}"), name)

    class Adapted(found):  # type: ignore[misc]  # Known at run time only.
        """In the session's order; takes the argument that Trainer passes since 4.46."""

        def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

        def compute_loss(
            self,
            model: Any,
            inputs: Any,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            return super().compute_loss(model, inputs, return_outputs)

    return Adapted


class Batches(Dataset[dict[str, dict[str, Tensor]]]):
    """A session's batches, one an item."""

    def __init__(self, drawn: Drawn, steps: int) -> None:
        self._drawn, self._steps = drawn, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, step: int) -> dict[str, dict[str, Tensor]]:
        return {
            side: {
                "input_ids": batch.input_ids_BS,
                "attention_mask": batch.attention_mask_BS,
                "labels": batch.labels_BS,
            }
            for side, batch in zip(("forget", "retain"), self._drawn.batch(step), strict=True)
        }


class InTurn(TrainerCallback):
    """Times each step of the trainer, from its beginning to the optimizer's end, and lets the
    session make the same step after it.
    """

    def __init__(self, step: Callable[[], float]) -> None:
        self._step, self._started = step, 0.0
        self.own: list[float] = []
        self.other: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.own.append(time.perf_counter() - self._started)
        self.other.append(self._step())


def trainer_ratio(source: Path, method: str, pairs: int, kept: Profile, folder: Path) -> Ratio:
    """A weighted session over open-unlearning's trainer."""
    session, other = (
        Session(configuration(source, method, rule, pairs + WARM), profile=kept)
        for rule in ("exact", "uniform")
    )
    with session, other, TemporaryDirectory() as out:
        callback = InTurn(seconds_of(session))
        trainer = trainer_class(folder, method)(
            model=other.opened.model,
            args=TrainingArguments(
                output_dir=out,
                max_steps=pairs + WARM,
                per_device_train_batch_size=1,
                learning_rate=RATE,
                lr_scheduler_type="constant",
                weight_decay=0.0,
                max_grad_norm=CLIP,
                optim="adamw_torch_fused",
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                use_cpu=True,
                remove_unused_columns=False,
                dataloader_pin_memory=False,
                disable_tqdm=True,
            ),
            train_dataset=Batches(Drawn(other), pairs + WARM),
            data_collator=lambda items: items[0],
            callbacks=[callback],
            **({"beta": BETA} if method == "npo" else {}),
        )
        trainer.train()
    note = (
        "It asks its reference model at every step; the session asked it once, before the first."
        if method == "npo"
        else ""
    )
    return ratio(
        "a weighted session over open-unlearning's trainer",
        method,
        callback.other[WARM:],
        callback.own[WARM:],
        target=None,
        note=note,
    )


def measure(pairs: int, checkout: str | None, methods: tuple[str, ...]) -> Iterator[Ratio]:
    """Every ratio, one after the other."""
    with TemporaryDirectory() as folder:
        source = save_model(Path(folder) / "model")
        with Session(configuration(source, "graddiff", "exact", 1)) as first:
            kept = first.profile
        del first
        for method in methods:
            yield weights_ratio(source, method, pairs, kept)
            yield loop_ratio(source, method, pairs, kept)
            if checkout is not None:
                yield trainer_ratio(source, method, pairs, kept, Path(checkout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=10)
    parser.add_argument("--open-unlearning", help="a checkout of locuslab/open-unlearning")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = []
    print(f"{hardware()}; {torch.get_num_threads()} threads", file=sys.stderr)
    for one in measure(arguments.pairs, arguments.open_unlearning, tuple(arguments.methods)):
        found.append(asdict(one))
        if arguments.json:
            continue
        target = "" if one.target is None else f"; target <= {one.target}"
        print(
            f"{one.method:9} {one.what}: {one.median:.3f} (quartiles {one.low:.3f} to "
            f"{one.high:.3f}, {one.pairs} pairs{target}); {one.seconds:.3f} s over "
            f"{one.reference_seconds:.3f} s. {one.note}",
            flush=True,
        )
    if arguments.json:
        print(json.dumps(found))
    elif arguments.open_unlearning is None:
        print("open-unlearning: not run; give --open-unlearning the path of a checkout.")


if __name__ == "__main__":
    main()
