"""Multiple-choice accuracy by log-likelihood, as EleutherAI's lm-evaluation-harness scores it.

Every choice is a continuation of the question; the most likely one is the model's answer. A
question is read once and its choices branch off it, each blind to the others, where the model obeys
such an attention mask; else every choice has a row of its own. Rows are sorted by length and
batched by tokens, and the output head runs on the choice positions only, unless the model does more
than a head after its backbone. Both are decided by value, on a row of the questions at hand.
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
from torch.nn import functional

from trace_engine.errors import InputError
from trace_engine.evaluation.estimate import Estimate, wilson
from trace_engine.progress import Meter, ProgressCallback, ignore_progress
from trace_engine.sets.questions import LETTERS, Question, described

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


LONGEST_SHARED = 2048
"""Tokens of a row up to which choices share it: its mask grows with the square."""


@dataclass(slots=True)
class _Row:
    """One row of the forward pass: a context, and one or more continuations that branch off it."""

    question: int
    choices: range
    context: list[int]
    targets: list[list[int]]
    """Per choice its continuation tokens."""

    def __len__(self) -> int:
        """Tokens of the row; the last one of a continuation is predicted and never read."""
        return len(self.context) + sum(len(target) - 1 for target in self.targets)

    @property
    def branches(self) -> bool:
        """Whether two continuations lie side by side, so that a mask must keep them apart."""
        return sum(len(target) > 1 for target in self.targets) > 1

    def layout(self) -> tuple[list[int], list[int], list[int], list[list[int]]]:
        """Token ids, position ids, branch of each token (0 the context), and per choice the places
        whose logits predict its tokens.
        """
        tokens, end = list(self.context), len(self.context)
        positions, branches, places = list(range(end)), [0] * end, []
        for number, target in enumerate(self.targets, start=1):
            first = len(tokens)
            tokens += target[:-1]
            positions += range(end, end + len(target) - 1)
            branches += [number] * (len(target) - 1)
            places.append([end - 1, *range(first, len(tokens))])
        return tokens, positions, branches, places

    def alone(self) -> list[_Row]:
        """The same continuations in rows of their own."""
        return [
            _Row(self.question, range(choice, choice + 1), self.context, [target])
            for choice, target in zip(self.choices, self.targets, strict=True)
        ]


def score_questions(
    model: nn.Module,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    style: Style = "continuation",
    tokens_per_batch: int | None = None,
    normalise: Normalise = "sum",
    description: str = "",
    report: ProgressCallback = ignore_progress,
) -> ChoiceScores:
    """Log-likelihood of every choice, and whether the likeliest is the answer.

    `continuation` scores " " + choice after the question, and white space at its end before that;
    `letters` shows the lettered choices as in MMLU and scores " A", " B", ...  `normalise`
    "characters" is the harness's acc_norm, "tokens" a mean. `description` stands before every
    question, as a task's `description` does in the harness, with a question's subject for
    `{subject}`; empty, each question's own.
    `tokens_per_batch` bounds padded tokens; None takes what suits the model's device.
    A BOS token starts a row if the tokenizer puts one there. Any `AutoModelForCausalLM`, on its own
    device; its train or eval mode is restored. Source: lm-evaluation-harness, `lm_eval/api/task.py`
    and `lm_eval/models/huggingface.py`. Raises InputError on an empty list or an unknown setting.
    """
    if not questions:
        raise InputError("There are no questions to score.")
    for value, allowed in ((style, get_args(Style)), (normalise, get_args(Normalise))):
        if value not in allowed:
            raise InputError(f"Expected one of {', '.join(allowed)}; found {value!r}.")
    if description:
        questions = [described(question, description) for question in questions]
    rows = _rows(tokenizer, questions, style)
    sums = [np.zeros(len(question.choices)) for question in questions]
    lengths = [np.ones(len(question.choices)) for question in questions]
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            split = _splits_into_backbone_and_head(model, rows[0])
            rows = _apart(model, rows, split)
            meter = Meter("scoring questions", len(rows), "rows", report)
            for batch in _batches(rows, tokens_per_batch or _tokens_per_batch(model)):
                for row, values in zip(batch, _score_batch(model, batch, split), strict=True):
                    sums[row.question][row.choices.start : row.choices.stop] = values
                    lengths[row.question][row.choices.start : row.choices.stop] = [
                        len(target) for target in row.targets
                    ]
                meter.add(len(batch))
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
        whole = question.description + question.question
        # The harness moves white space at the end of a context into the continuation.
        context = whole.rstrip()
        return context, [f"{whole[len(context) :]} {choice}" for choice in question.choices]
    lines = [f"{LETTERS[i]}. {choice}" for i, choice in enumerate(question.choices)]
    context = question.description + "\n".join([question.question.strip(), *lines, "Answer:"])
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
        rows.append(_Row(number, range(len(targets)), prefix + context, targets))
    return rows


def _apart(model: nn.Module, rows: list[_Row], split: bool) -> list[_Row]:
    """The rows as they are where choices may share one, else a row for every choice."""
    short = [row for row in rows if row.branches and len(row) <= LONGEST_SHARED]
    shared = bool(short) and _keeps_branches_apart(model, max(short, key=len), split)
    return [
        part
        for row in rows
        for part in (
            [row] if not row.branches or (shared and len(row) <= LONGEST_SHARED) else row.alone()
        )
    ]


def _tokens_per_batch(model: nn.Module) -> int:
    """Few tokens where a cache is what must hold them, many where launching kernels is the cost.

    Measured on one core of a server, bundled model, 280 questions, best of 256 to 8,192: 1,024
    takes 0.63 of the time of 8,192.
    """
    return 1024 if next(model.parameters()).device.type == "cpu" else 8192


def _batches(rows: list[_Row], tokens_per_batch: int) -> list[list[_Row]]:
    """Rows sorted by length, longest first, so that padded tokens per batch stay in the budget."""
    batches: list[list[_Row]] = []
    for row in sorted(rows, key=lambda row: (-len(row), row.question, row.choices.start)):
        if not batches or (len(batches[-1]) + 1) * len(batches[-1][0]) > tokens_per_batch:
            batches.append([])
        batches[-1].append(row)
    return batches


def _score_batch(model: nn.Module, batch: list[_Row], split: bool) -> list[list[float]]:
    """Per row, the log-likelihood of each of its choices."""
    logits_PV = _row_logits(model, batch, split)
    targets_P = torch.tensor([token for row in batch for target in row.targets for token in target])
    found_P = -functional.cross_entropy(
        logits_PV, targets_P.to(logits_PV.device), reduction="none"
    ).double()
    found, values, offset = found_P.tolist(), [], 0
    for row in batch:
        of_row = []
        for target in row.targets:
            of_row.append(sum(found[offset : offset + len(target)]))
            offset += len(target)
        values.append(of_row)
    return values


def _row_logits(model: nn.Module, batch: list[_Row], split: bool) -> Tensor:
    """Logits (P, V) in float32 that predict every token of every choice, row by row."""
    inputs, row_P, place_P = _inputs(model, batch)
    return _logits(model, inputs, row_P, place_P, split)


def _inputs(model: nn.Module, batch: list[_Row]) -> tuple[dict[str, Tensor], list[int], list[int]]:
    """A forward's inputs on the model's device, and row and place of every choice position."""
    parameter = next(model.parameters())
    width = max(len(row) for row in batch)
    # Right padding never reaches a real token of a causal model; its id only has to exist.
    ids_BT, position_BT, branch_BT, real_BT = torch.zeros(4, len(batch), width, dtype=torch.long)
    row_P: list[int] = []
    place_P: list[int] = []
    for number, row in enumerate(batch):
        tokens, positions, branches, places = row.layout()
        for values_BT, values in (
            (ids_BT, tokens),
            (position_BT, positions),
            (branch_BT, branches),
        ):
            values_BT[number, : len(values)] = torch.tensor(values)
        real_BT[number, : len(tokens)] = 1
        for of_choice in places:
            row_P += [number] * len(of_choice)
            place_P += of_choice
    inputs = {"input_ids": ids_BT, "attention_mask": real_BT}
    if any(row.branches for row in batch):
        mask_BTT = _branch_mask(branch_BT, real_BT)
        lowest = torch.finfo(parameter.dtype).min
        blocked_BTT = torch.zeros(mask_BTT.shape, dtype=parameter.dtype).masked_fill(
            ~mask_BTT, lowest
        )
        inputs |= {"attention_mask": blocked_BTT[:, None], "position_ids": position_BT}
    placed = {name: value.to(parameter.device) for name, value in inputs.items()}
    return placed, row_P, place_P


def _branch_mask(branch_BT: Tensor, real_BT: Tensor) -> Tensor:
    """Which place may attend to which, bool (B, T, T): what comes before it in the context or in
    its own branch; padding attends to itself, so that no row of the softmax is empty.
    """
    width = branch_BT.shape[1]
    causal_TT = torch.ones(width, width, dtype=torch.bool).tril()
    own_BTT = (branch_BT[:, None, :] == 0) | (branch_BT[:, None, :] == branch_BT[:, :, None])
    seen_BTT = causal_TT & own_BTT & (real_BT[:, None, :] == 1)
    return seen_BTT | torch.eye(width, dtype=torch.bool)


def _logits(
    model: nn.Module, inputs: dict[str, Tensor], row_P: list[int], place_P: list[int], split: bool
) -> Tensor:
    """Logits (P, V) in float32 at the given places."""
    if split:
        hidden_BTD = model.model(**inputs, use_cache=False).last_hidden_state  # type: ignore[operator]
        head = model.get_output_embeddings()  # type: ignore[operator]
        logits_PV: Tensor = head(hidden_BTD[row_P, place_P])
    else:
        logits_PV = model(**inputs, use_cache=False).logits[row_P, place_P]
    return logits_PV.float()


def _splits_into_backbone_and_head(model: nn.Module, row: _Row) -> bool:
    """Whether backbone plus output embedding gives the model's own logits (no softcap, no scale).

    Checked by value on one row, not by class.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if not isinstance(getattr(model, "model", None), nn.Module) or not isinstance(head, nn.Module):
        return False
    one = row.alone()[:1]
    try:
        short = _row_logits(model, one, split=True)
    except (TypeError, AttributeError, RuntimeError):
        return False
    full = _row_logits(model, one, split=False)
    return short.shape == full.shape and torch.allclose(short, full, rtol=1e-3, atol=1e-3)


def _keeps_branches_apart(model: nn.Module, row: _Row, split: bool) -> bool:
    """Whether a row of branches gives each choice the logits that it has in a row of its own.

    It does not where layers carry a state along, look back a window only, or take no such mask.
    Checked by value on the longest row, not by class.
    """
    try:
        together = _row_logits(model, [row], split)
    except (TypeError, AttributeError, RuntimeError, ValueError, IndexError):
        return False
    apart = torch.cat([_row_logits(model, [one], split) for one in row.alone()])
    rounding = torch.finfo(next(model.parameters()).dtype).eps ** 0.5
    return bool((together - apart).abs().max() <= rounding * apart.abs().max())


@dataclass(frozen=True, slots=True)
class AskedBatch:
    """Questions side by side, for whoever runs the model by other means than `score_questions`."""

    inputs: dict[str, Tensor]
    """Of the backbone's forward, on the model's device."""
    real_BT: Tensor
    """True for tokens, False for padding."""
    row_P: Tensor
    place_P: Tensor
    """Row and place whose hidden state predicts each token of each choice."""
    target_P: Tensor
    """Those tokens."""
    choice_P: NDArray[np.int64]
    """The choice that each belongs to, counted through all questions in order."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A list of questions as a model is asked them: the same batches at every time of asking."""

    batches: list[AskedBatch]
    split: bool
    """Whether backbone and output embedding give the model's own logits."""


def ask(
    model: nn.Module,
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    style: Style = "continuation",
    tokens_per_batch: int = 1024,
) -> Asked:
    """The batches in which `score_questions` would ask, decided for the model as it is now.

    Raises InputError on an empty list.
    """
    if not questions:
        raise InputError("There are no questions to score.")
    first = np.cumsum([0, *(len(question.choices) for question in questions)])
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            rows = _rows(tokenizer, questions, style)
            split = _splits_into_backbone_and_head(model, rows[0])
            rows = _apart(model, rows, split)
            batches = [_asked(model, batch, first) for batch in _batches(rows, tokens_per_batch)]
    finally:
        model.train(was_training)
    return Asked(batches, split)


def _asked(model: nn.Module, batch: list[_Row], first: NDArray[np.int64]) -> AskedBatch:
    inputs, row_P, place_P = _inputs(model, batch)
    device = inputs["input_ids"].device
    length_B = torch.tensor([len(row) for row in batch])
    targets = [
        (first[row.question] + choice, target)
        for row in batch
        for choice, target in zip(row.choices, row.targets, strict=True)
    ]
    return AskedBatch(
        inputs=inputs,
        real_BT=torch.arange(int(length_B.max())) < length_B[:, None],
        row_P=torch.tensor(row_P, device=device),
        place_P=torch.tensor(place_P, device=device),
        target_P=torch.tensor([t for _, target in targets for t in target], device=device),
        choice_P=np.repeat(
            np.array([choice for choice, _ in targets]), [len(target) for _, target in targets]
        ),
    )
