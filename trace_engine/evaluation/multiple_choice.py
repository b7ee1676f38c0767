"""Multiple-choice accuracy by log-likelihood, as EleutherAI's lm-evaluation-harness scores it.

Every choice is a continuation of the question; the most likely one is the model's answer. Rows are
sorted by length and batched by tokens, and the output head runs on the choice positions only,
unless the model does more than a head after its backbone (a self-check on the first row decides).
"""

# Dims: B rows of a batch, T tokens of a row, P choice positions of a batch, D hidden, V vocabulary

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Estimate, wilson
from trace_engine.sets.questions import LETTERS, Question

Style = Literal["continuation", "letters"]
Normalise = Literal["sum", "tokens", "characters"]


@dataclass(frozen=True, slots=True)
class ChoiceScores:
    """The result of scoring a list of questions, in the list's order."""

    loglikelihoods: tuple[NDArray[np.float64], ...]
    """Per question, the (normalised) log-likelihood of each choice, in nats."""
    picked: NDArray[np.int64]
    """Per question, the most likely choice (first of equals)."""
    correct: NDArray[np.bool_]
    """Per question, whether the picked choice is the answer."""
    categories: tuple[str, ...]

    def accuracy(self, category: str | None = None) -> Estimate:
        """Accuracy over one category, or over all. Raises InputError if it has no question."""
        places = self._of(category)
        return wilson(int(self.correct[places].sum()), len(places))

    def chance(self, category: str | None = None) -> float:
        """Expected accuracy of guessing: the mean of 1 / choices over one category, or over all.

        Raises InputError if it has no question.
        """
        places = self._of(category)
        return sum(1 / len(self.loglikelihoods[place]) for place in places) / len(places)

    def _of(self, category: str | None) -> list[int]:
        places = [n for n, name in enumerate(self.categories) if category in (None, name)]
        if not places:
            known = ", ".join(sorted(set(self.categories)))
            raise InputError(f"No question has the category {category!r}; categories: {known}.")
        return places

    def by_category(self) -> dict[str, Estimate]:
        """Accuracy of each category, in alphabetical order."""
        return {name: self.accuracy(name) for name in sorted(set(self.categories))}


@dataclass(slots=True)
class _Row:
    """One row of the forward pass: a context and one continuation, or several of one token each."""

    question: int
    choices: range
    tokens: list[int]
    start: int
    """Position that predicts the first continuation token."""
    targets: list[list[int]]
    """Per choice its continuation tokens."""


def score_questions(
    model: nn.Module,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    style: Style = "continuation",
    tokens_per_batch: int = 8192,
    normalise: Normalise = "sum",
) -> ChoiceScores:
    """Log-likelihood of every choice, and whether the likeliest is the answer.

    `continuation` scores question + " " + choice; `letters` shows the lettered choices as in MMLU
    and scores " A", " B", ...  `normalise` "characters" is the harness's acc_norm, "tokens" a mean.
    A BOS token starts a row if the tokenizer puts one there. Any `AutoModelForCausalLM`, on its own
    device; its train or eval mode is restored. Source: lm-evaluation-harness, `lm_eval/api/task.py`
    and `lm_eval/models/huggingface.py`. Raises InputError on an empty list or an unknown setting.
    """
    if not questions:
        raise InputError("There are no questions to score.")
    for value, allowed in ((style, get_args(Style)), (normalise, get_args(Normalise))):
        if value not in allowed:
            raise InputError(f"Expected one of {', '.join(allowed)}; found {value!r}.")
    rows = _rows(tokenizer, questions, style)
    sums = [np.zeros(len(question.choices)) for question in questions]
    lengths = [np.ones(len(question.choices)) for question in questions]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            split = _splits_into_backbone_and_head(model, rows[0])
            for batch in _batches(rows, tokens_per_batch):
                for row, values in zip(batch, _score_batch(model, batch, split), strict=True):
                    sums[row.question][row.choices.start : row.choices.stop] = values
                    lengths[row.question][row.choices.start : row.choices.stop] = [
                        len(target) for target in row.targets
                    ]
    finally:
        model.train(was_training)
    if normalise == "tokens":
        sums = [total / length for total, length in zip(sums, lengths, strict=True)]
    elif normalise == "characters":
        sums = [
            total / np.array([len(choice) for choice in question.choices])
            for total, question in zip(sums, questions, strict=True)
        ]
    picked = np.array([np.argmax(total) for total in sums], dtype=np.int64)
    return ChoiceScores(
        loglikelihoods=tuple(sums),
        picked=picked,
        correct=picked == np.array([question.answer for question in questions]),
        categories=tuple(question.category for question in questions),
    )


def prompt_of(question: Question, style: Style) -> tuple[str, list[str]]:
    """The context and the continuations that are scored after it."""
    if style == "continuation":
        return question.question.rstrip(), [f" {choice}" for choice in question.choices]
    lines = [f"{LETTERS[i]}. {choice}" for i, choice in enumerate(question.choices)]
    context = "\n".join([question.question.strip(), *lines, "Answer:"])
    return context, [f" {LETTERS[i]}" for i in range(len(question.choices))]


def _rows(tokenizer: Any, questions: Sequence[Question], style: Style) -> list[_Row]:
    bos = tokenizer.bos_token_id
    first = tokenizer("a")["input_ids"][:1]
    prefix = [bos] if bos is not None and first == [bos] else []
    prompts = [prompt_of(question, style) for question in questions]
    texts = [context for context, _ in prompts]
    wholes = [context + choice for context, choices in prompts for choice in choices]
    encoded = tokenizer(texts + wholes, add_special_tokens=False)["input_ids"]
    contexts, whole_iterator = encoded[: len(texts)], iter(encoded[len(texts) :])
    if not prefix and any(not context for context in contexts):
        raise InputError("A question has no tokens before its choices.")
    rows = []
    for number, (context, (_, choices)) in enumerate(zip(contexts, prompts, strict=True)):
        targets = [next(whole_iterator)[len(context) :] for _ in choices]
        start = len(prefix) + len(context) - 1
        if all(len(target) == 1 for target in targets):  # one forward answers for every choice
            rows.append(_Row(number, range(len(targets)), prefix + context, start, targets))
            continue
        for choice, target in enumerate(targets):
            tokens = prefix + context + target[:-1]
            rows.append(_Row(number, range(choice, choice + 1), tokens, start, [target]))
    return rows


def _batches(rows: list[_Row], tokens_per_batch: int) -> list[list[_Row]]:
    """Rows sorted by length, longest first, so that padded tokens per batch stay in the budget."""
    batches: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: (-len(row.tokens), row.question, row.choices.start)):
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0].tokens) > tokens_per_batch:
            batches.append([])
        batches[-1].append(row)
    return batches


def _score_batch(model: nn.Module, batch: list[_Row], split: bool) -> list[list[float]]:
    """Per row, the log-likelihood of each of its choices."""
    device = next(model.parameters()).device
    width = max(len(row.tokens) for row in batch)
    # Right padding never reaches a real token of a causal model; its id only has to exist.
    ids_BT = torch.zeros(len(batch), width, dtype=torch.long)
    mask_BT = torch.zeros(len(batch), width, dtype=torch.long)
    for number, row in enumerate(batch):
        ids_BT[number, : len(row.tokens)] = torch.tensor(row.tokens)
        mask_BT[number, : len(row.tokens)] = 1
    row_P: list[int] = []
    position_P: list[int] = []
    for number, row in enumerate(batch):
        steps = len(row.targets[0])
        row_P += [number] * steps
        position_P += range(row.start, row.start + steps)
    logits_PV = _logits(model, ids_BT.to(device), mask_BT.to(device), row_P, position_P, split)
    normaliser_P = torch.logsumexp(logits_PV, dim=-1)
    values, offset = [], 0
    for row in batch:
        steps = len(row.targets[0])
        span = slice(offset, offset + steps)
        targets = torch.tensor(row.targets, device=device)  # (choices, steps)
        picked = logits_PV[span].gather(1, targets.T) - normaliser_P[span, None]
        values.append(picked.double().sum(0).tolist())
        offset += steps
    return values


def _logits(
    model: nn.Module,
    ids_BT: Tensor,
    mask_BT: Tensor,
    row_P: list[int],
    position_P: list[int],
    split: bool,
) -> Tensor:
    """Logits (P, V) in float32 at the given positions."""
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": False}
    if split:
        hidden_BTD = model.model(**inputs).last_hidden_state  # type: ignore[operator]
        head = model.get_output_embeddings()  # type: ignore[operator]
        logits_PV: Tensor = head(hidden_BTD[row_P, position_P])
    else:
        logits_PV = model(**inputs).logits[row_P, position_P]
    return logits_PV.float()


def _splits_into_backbone_and_head(model: nn.Module, row: _Row) -> bool:
    """Whether backbone plus output embedding gives the model's own logits (no softcap, no scale).

    Checked by value on one row, not by class.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if not isinstance(getattr(model, "model", None), nn.Module) or not isinstance(head, nn.Module):
        return False
    device = next(model.parameters()).device
    ids_BT = torch.tensor([row.tokens], device=device)
    at = ([0], [row.start])
    try:
        short = _logits(model, ids_BT, torch.ones_like(ids_BT), *at, split=True)
    except (TypeError, AttributeError, RuntimeError):
        return False
    full = _logits(model, ids_BT, torch.ones_like(ids_BT), *at, split=False)
    return short.shape == full.shape and torch.allclose(short, full, rtol=1e-3, atol=1e-3)
