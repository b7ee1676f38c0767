"""Relearning: fine-tune on a slice of the forget set, and ask about the rest of it.

If the rest comes back, it was never gone: the slice does not tell it. A model that never learned
it, given the same slice in the same order, is the yardstick. `routers` trains the routers alone,
which can send tokens back to experts that still know and cannot write a fact into any. On
`retained_only` text it mends a model that was wrecked as a whole and tells it nothing. Plain NLL,
AdamW without decay, gradient norm at most 1, the model in eval mode throughout. After A. Deeb and
F. Roger, Do Unlearning Methods Remove Information from Language Model Weights? (2024), who ask
about facts that the retraining does not show. Trade-off: the model that is given is changed.
"""

# Dims: B documents of a batch, T shifted positions, N questions

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from trace_engine.attacks.asking import marks_of
from trace_engine.attacks.settings import TrainingConfig, Trains
from trace_engine.errors import InputError, ModelError, NonFiniteLossError
from trace_engine.evaluation.loss import encode_documents
from trace_engine.evaluation.multiple_choice import Style
from trace_engine.evaluation.nll import forward_nll, label_mask
from trace_engine.models import Encoded, OpenModel, collate
from trace_engine.models.parts import router_parameters
from trace_engine.progress import Meter, ProgressCallback, ignore_progress
from trace_engine.sets import Document, Question
from trace_engine.sets.documents import normalised
from trace_engine.unlearning.masters import Masters

LARGEST_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Relearned:
    """What one model answered on the way: per step, marks over the forget questions and over the
    utility questions."""

    forget: dict[int, str]
    utility: dict[int, str]


def slice_of(documents: Sequence[Document], share: float, seed: int) -> list[Document]:
    """The part of the forget set that is shown again, at least one document; drawn with the seed.

    Raises InputError when nothing would be left to ask about.
    """
    count = max(1, round(share * len(documents)))
    if count >= len(documents):
        raise InputError(
            f"Relearning shows {count} of {len(documents)} forget documents, so nothing is left "
            "that was not shown. Give a larger forget set, or lower relearning.share."
        )
    order = np.random.default_rng([seed, 22]).permutation(len(documents))
    return [documents[place] for place in sorted(order[:count].tolist())]


def retained_only(
    retain: Sequence[Document], forget: Sequence[Document], most: int, seed: int
) -> list[Document]:
    """At most so many documents of the retain set that the forget set does not have too, case and
    white space aside; drawn with the seed, in the set's order.

    Raises InputError when there is none.
    """
    forgotten = {normalised(document.text) for document in forget}
    left = [document for document in retain if normalised(document.text) not in forgotten]
    if not left:
        raise InputError(
            "Every retained document is in the forget set too, so there is none to train on. Give "
            "a retain set of its own."
        )
    order = np.random.default_rng([seed, 25]).permutation(len(left))
    return [left[place] for place in sorted(order[:most].tolist())]


def not_shown(
    questions: Mapping[int, Question], shown: Sequence[Document], *, choices: bool = False
) -> list[bool]:
    """Per question, whether no shown document has the right choice in it (`choices`: any of them),
    case and white space aside. A paraphrase of it is not found."""
    text = "\n".join(normalised(document.text) for document in shown)
    return [
        not any(
            normalised(choice) in text
            for place, choice in enumerate(question.choices)
            if choices or place == question.answer
        )
        for question in questions.values()
    ]


def relearn(
    opened: OpenModel,
    shown: Sequence[Document],
    questions: Mapping[int, Question],
    utility: Mapping[int, Question],
    config: TrainingConfig,
    *,
    trains: Trains = "all",
    what: str = "relearning",
    seed: int = 0,
    max_length: int = 256,
    style: Style = "continuation",
    report: ProgressCallback = ignore_progress,
) -> Relearned:
    """Fine-tune on `shown`, asking at step 0 and at every one of `config.ask_at`; `what` names it
    to who watches.

    Raises InputError when nothing of `shown` can be learned, ModelError where there is nothing to
    train, NonFiniteLossError when the loss is not a number.
    """
    encoded = [item for item in encode_documents(opened, shown, max_length) if item.labels]
    if not encoded:
        raise InputError("No document that is shown has a token to learn.")
    names, parameters = _trained(opened, trains)
    masters = Masters(names, parameters)
    rate = config.rate(trains)
    optimizer = torch.optim.AdamW(masters.leaves, lr=rate, weight_decay=0.0, fused=True)
    found = Relearned({}, {})

    def ask(step: int) -> None:
        found.forget[step] = marks_of(opened, list(questions), questions, style)
        if utility:
            found.utility[step] = marks_of(opened, list(utility), utility, style)

    ask(0)
    meter = Meter(f"{what} ({trains}, seed {seed})", config.steps, "steps", report)
    for step in range(1, config.steps + 1):
        batch = _batch(encoded, step - 1, config.batch_size, seed)
        _step(opened, batch, masters, optimizer, f"{what}, step {step}")
        if step in config.ask_at:
            ask(step)
        meter.add(1)
    return found


def _trained(opened: OpenModel, trains: Trains) -> tuple[list[str], list[nn.Parameter]]:
    routers = {id(parameter) for parameter in router_parameters(opened.sites)}
    model: nn.Module = opened.model
    chosen = {}
    for name, parameter in model.named_parameters():
        used = parameter.is_floating_point() and (trains == "all" or id(parameter) in routers)
        parameter.requires_grad_(used)
        if used:
            chosen[name] = parameter
    if not chosen:
        raise ModelError(
            f"{opened.info.source} has no weights to train as {trains}: its routers have none, or "
            "its weights are stored in few bits."
        )
    return list(chosen), list(chosen.values())


def _batch(encoded: Sequence[Encoded], step: int, size: int, seed: int) -> list[Encoded]:
    """The documents of a step: every epoch in an order of its own, which the seed and the epoch's
    number decide."""
    batch = []
    for place in range(step * size, (step + 1) * size):
        epoch, within = divmod(place, len(encoded))
        order = np.random.default_rng([seed, 23, epoch]).permutation(len(encoded))
        batch.append(encoded[order[within]])
    return batch


def _step(
    opened: OpenModel,
    documents: Sequence[Encoded],
    masters: Masters,
    optimizer: torch.optim.Optimizer,
    where: str,
) -> None:
    batch = collate(documents, range(len(documents))).to(opened.device)
    nll_BT = forward_nll(opened, batch)
    loss = nll_BT.sum() / label_mask(batch.labels_BS).sum()
    if not torch.isfinite(loss):
        raise NonFiniteLossError(f"The loss became {loss.item()} ({where}).")
    loss.backward()  # type: ignore[no-untyped-call]
    masters.take_gradients()
    nn.utils.clip_grad_norm_(masters.leaves, LARGEST_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    masters.give_weights()
