"""Asks a model the same questions again and again with experts taken out, from the first masked
layer on.

Hidden states before that layer are those of the model as it is, so they are computed once and
handed to the layers that follow; batches in which no token reaches a masked expert are not computed
at all, and output positions whose last hidden state stayed bit for bit keep their likelihood.
Whether a model's layers can be replayed is decided by value, not by class; where they cannot, every
ablation is a full forward, and the answer says so. Trade-off: the states of one layer are held for
all questions, T x D numbers.
"""

# Dims: T tokens of all batches, P choice positions of a batch, D hidden, V vocabulary, K experts
# per token, L sites, E experts, N questions

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from trace_engine.causal.paired import Answers
from trace_engine.causal.results import Replayable
from trace_engine.config import Cell
from trace_engine.evaluation.multiple_choice import Asked, AskedBatch, Style, ask
from trace_engine.models import (
    MaskMode,
    OpenModel,
    RoutingTap,
    check_cells,
    decoder_layers,
    mask_experts,
)
from trace_engine.models.routers import UNKNOWN, router_kinds
from trace_engine.progress import Meter, ProgressCallback, ignore_progress
from trace_engine.sets import Question

TOKENS_PER_BATCH = 1024
"""Small batches stay in a processor's cache."""
TOLERANCE = 1e-4
"""Largest difference of a log-likelihood, in nats, at which a replay counts as the full forward."""


class Examination:
    """A list of questions and one model, open for ablations.

    The model's own answers, and which experts its tokens reach, are measured when it is made. Masks
    are gone after every call. Raises InputError when there is no question.
    """

    def __init__(
        self,
        opened: OpenModel,
        questions: Sequence[Question],
        *,
        style: Style = "continuation",
        tokens_per_batch: int = TOKENS_PER_BATCH,
        replay: bool = True,
        report: ProgressCallback = ignore_progress,
    ) -> None:
        self.opened, self.questions = opened, list(questions)
        self._replay = replay
        opened.model.eval()
        self._asked: Asked = ask(
            opened.model,
            opened.tokenizer,
            self.questions,
            style=style,
            tokens_per_batch=tokens_per_batch,
        )
        self._layers = decoder_layers(opened)
        self._kinds: tuple[str, ...] | None = None
        self._held: tuple[int, list[Any]] | None = None
        self._checked: dict[int, Replayable] = {}
        sizes = [len(question.choices) for question in self.questions]
        self._first = np.cumsum([0, *sizes])
        self._answer = self._first[:-1] + np.array([q.answer for q in self.questions])
        self._length = np.zeros(int(self._first[-1]))
        for batch in self._asked.batches:
            self._length += np.bincount(batch.choice_P, minlength=len(self._length))
        experts = max(site.num_experts for site in opened.sites)
        shape = (len(self._asked.batches), len(opened.sites), experts)
        self._reached_BLE: NDArray[np.int64] = np.zeros(shape, dtype=np.int64)
        self._final: list[Tensor] = []
        self._logprob: list[Tensor] = []
        self._measure_as_it_is(report)
        self.answers: Answers = self._answers(self._logprob)
        """Of the model as it is."""

    # ---- what was found --------------------------------------------------------------------------

    @property
    def tokens_LE(self) -> NDArray[np.int64]:
        """Tokens of all questions that reach each expert in the model as it is."""
        return np.asarray(self._reached_BLE.sum(axis=0))

    @property
    def tokens(self) -> int:
        """Tokens of all questions, choices included."""
        return int(sum(int(batch.real_BT.sum()) for batch in self._asked.batches))

    def replays(self) -> list[Replayable]:
        """What the checks of the layers so far came to."""
        return [self._checked[layer] for layer in sorted(self._checked)]

    def take_checks(self, checks: Sequence[Replayable]) -> None:
        """Believe checks that were made before, of the same model and questions."""
        self._checked |= {check.layer: check for check in checks}

    # ---- ablations -------------------------------------------------------------------------------

    def without(
        self,
        cells: Sequence[Cell],
        mode: MaskMode = "drop",
        report: ProgressCallback = ignore_progress,
    ) -> Answers:
        """The answers without these experts. Raises as `mask_experts` does.

        Exactly the model's own answers where no token of any question reaches one of them.
        """
        dead = check_cells(self.opened.sites, cells)
        if not dead:
            return self.answers
        reached = self._batches_reached(dead, mode)
        first = min(dead)
        replayed = self._replay and self._replayable(first, cells, mode, reached)
        logprob = list(self._logprob)
        meter = Meter("asking without the experts", max(1, len(reached)), "batches", report)
        # Entered even where nothing is computed: impossible masks are refused all the same.
        with torch.inference_mode(), mask_experts(self.opened, cells, mode):
            for number in reached:
                states = self._states(first, number) if replayed else None
                logprob[number] = self._logprobs(number, first, states)
                meter.add(1)
        return self._answers(logprob)

    def _batches_reached(self, dead: dict[int, list[int]], mode: MaskMode) -> list[int]:
        """Batches in which a token reaches one of the experts: no other can change."""
        hit_B = np.zeros(len(self._asked.batches), dtype=bool)
        for site in self.opened.sites:
            if site.layer not in dead:
                continue
            if mode == "reroute" and self._chooses_by_groups(site.index):
                # A group's score may hang on an expert that no token chose.
                hit_B[:] = True
            hit_B |= self._reached_BLE[:, site.index, dead[site.layer]].any(axis=1)
        return [int(number) for number in np.flatnonzero(hit_B)]

    def _chooses_by_groups(self, site: int) -> bool:
        if self._kinds is None:
            self._kinds = router_kinds(self.opened.model, self.opened.sites)
        return self._kinds[site] == UNKNOWN or "groups" in self._kinds[site]

    # ---- forwards --------------------------------------------------------------------------------

    def _measure_as_it_is(self, report: ProgressCallback) -> None:
        meter = Meter("asking the model as it is", len(self._asked.batches), "batches", report)
        for number, batch in enumerate(self._asked.batches):
            real_T = batch.real_BT.flatten()

            count = self._counter(number, real_T)
            with torch.inference_mode(), RoutingTap(self.opened.sites, count):
                found_PD = self._forward(batch)
                self._final.append(found_PD if self._asked.split else found_PD[:, :0])
                self._logprob.append(self._scored(batch, found_PD))
            meter.add(1)

    def _counter(self, number: int, real_T: Tensor) -> Callable[[int, Tensor, Tensor], None]:
        experts = self._reached_BLE.shape[2]

        def count(site: int, index_TK: Tensor, weight_TK: Tensor) -> None:
            kept_TK = index_TK[real_T.to(index_TK.device)]
            chosen = kept_TK[kept_TK >= 0].cpu().numpy()
            self._reached_BLE[number, site] += np.bincount(chosen, minlength=experts)

        return count

    def _forward(self, batch: AskedBatch) -> Tensor:
        """At the choice positions: last hidden states (P, D) where the head can run apart, else
        logits (P, V)."""
        model = self.opened.model
        if self._asked.split:
            hidden_BTD = model.model(**batch.inputs, use_cache=False).last_hidden_state
            return hidden_BTD[batch.row_P, batch.place_P]  # type: ignore[no-any-return]
        logits_BTV = model(**batch.inputs, use_cache=False).logits
        return logits_BTV[batch.row_P, batch.place_P]  # type: ignore[no-any-return]

    def _scored(self, batch: AskedBatch, found_PD: Tensor, kept_P: Tensor | None = None) -> Tensor:
        """Log-likelihoods of the target tokens, (P,) float64 on the CPU, or of the kept ones."""
        target_P = batch.target_P if kept_P is None else batch.target_P[kept_P]
        if kept_P is not None:
            found_PD = found_PD[kept_P]
        if self._asked.split:
            found_PD = self.opened.model.get_output_embeddings()(found_PD)
        return (
            -functional.cross_entropy(found_PD.float(), target_P, reduction="none").double().cpu()
        )

    def _logprobs(self, number: int, first: int, states: Any | None) -> Tensor:
        batch = self._asked.batches[number]
        with ExitStack() as stack:
            if states is not None:
                stack.enter_context(_starting_at(self._before(first), states))
            found_PD = self._forward(batch)
        if not self._asked.split:
            return self._scored(batch, found_PD)
        moved_P = (found_PD != self._final[number]).any(dim=-1)
        logprob_P = self._logprob[number].clone()
        if bool(moved_P.any()):
            logprob_P[moved_P.cpu()] = self._scored(batch, found_PD, moved_P)
        return logprob_P

    def _answers(self, logprob: list[Tensor]) -> Answers:
        total = np.zeros(len(self._length))
        for batch, values in zip(self._asked.batches, logprob, strict=True):
            total += np.bincount(batch.choice_P, values.numpy(), minlength=len(total))
        picked = [
            start + int(np.argmax(total[start:end]))
            for start, end in zip(self._first[:-1], self._first[1:], strict=True)
        ]
        correct_N = np.array(picked) == self._answer
        return Answers(correct_N, -total[self._answer] / self._length[self._answer])

    # ---- the prefix ------------------------------------------------------------------------------

    def _replayable(
        self, layer: int, cells: Sequence[Cell], mode: MaskMode, reached: list[int]
    ) -> bool:
        """Whether states stored before `layer` lead to the likelihoods of the full forward: by
        value, on the first batch that the masks change, once a layer."""
        if layer not in self._checked and reached:
            # Not the batch that was collected last: a layer that keeps something of its own from
            # the forward before would then pass.
            others = [n for n in reached if n != len(self._asked.batches) - 1]
            self._checked[layer] = self._check(layer, cells, mode, (others or reached)[0])
        return layer in self._checked and self._checked[layer].reused

    def _check(self, layer: int, cells: Sequence[Cell], mode: MaskMode, number: int) -> Replayable:
        if not self._before(layer):
            return Replayable(layer, True, 0.0)  # nothing comes before: it is the full forward
        try:
            states = self._states(layer, number)
            with torch.inference_mode(), mask_experts(self.opened, cells, mode):
                replayed_P = self._logprobs(number, layer, states)
                full_P = self._logprobs(number, layer, None)
        except _NOT_REPLAYED:
            self._held = None
            return Replayable(layer, False, None)
        difference = float((full_P - replayed_P).abs().max())
        if not difference <= TOLERANCE:
            self._held = None
        return Replayable(layer, difference <= TOLERANCE, difference)

    def _before(self, layer: int) -> list[nn.Module]:
        """The decoder layers before one, in order."""
        names = [name for number, name in self._layers.items() if number < layer]
        return [self.opened.model.get_submodule(name) for name in names]

    def _states(self, layer: int, number: int) -> Any:
        """What the layer before `layer` hands on for a batch; None where there is none before."""
        if self._held is None or self._held[0] != layer:
            self._held = (layer, self._collect(layer))
        return self._held[1][number]

    def _collect(self, layer: int) -> list[Any]:
        before = self._before(layer)
        if not before:
            return [None] * len(self._asked.batches)
        # From states already held for an earlier layer, the way is shorter.
        held = self._held if self._held is not None and self._held[0] < layer else None
        kept: list[Any] = []
        handle = before[-1].register_forward_hook(lambda module, args, output: kept.append(output))
        try:
            with torch.inference_mode(), _ending_at(self._module(layer)):
                for number, batch in enumerate(self._asked.batches):
                    states = None if held is None else held[1][number]
                    skipped = [] if held is None or states is None else self._before(held[0])
                    with _starting_at(skipped, states), suppress(_EndedError):
                        self._forward(batch)
        finally:
            handle.remove()
        if len(kept) != len(self._asked.batches):
            raise _EndedError
        return kept

    def _module(self, layer: int) -> nn.Module:
        module: nn.Module = self.opened.model.get_submodule(self._layers[layer])
        return module


class _EndedError(Exception):
    """Ends a forward before a layer."""


_NOT_REPLAYED = (_EndedError, TypeError, AttributeError, RuntimeError, ValueError, IndexError)
"""What a model raises whose layers hand on more than their output."""


@contextmanager
def _ending_at(layer: nn.Module) -> Iterator[None]:
    """Inside, a forward ends where `layer` would begin."""

    def end(*args: Any, **kwargs: Any) -> Any:
        raise _EndedError

    with _instead(layer, end):
        yield


@contextmanager
def _starting_at(before: Sequence[nn.Module], states: Any) -> Iterator[None]:
    """Inside, the layers in `before` compute nothing and hand on the states."""
    with ExitStack() as stack:
        for layer in before:
            stack.enter_context(_instead(layer, lambda *args, **kwargs: states))
        yield


@contextmanager
def _instead(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")  # placement over several devices sets one
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
