"""Taking out every expert of the bundled model, one at a time: time, and what replaying saves.

The reference is the naive scan, `score_questions` on the whole masked model for every expert, on a
sample of experts drawn evenly over the layers, in the same process and between the scan's own
cells, so that a busy machine slows both alike. Both ask the same questions, and what each finds for
the sampled experts is compared.
"""

import sys
import time
from statistics import median

import numpy as np

from bench import hardware
from trace_engine.causal.paired import Answers
from trace_engine.causal.perform import read_questions
from trace_engine.causal.replay import Examination
from trace_engine.causal.scanning import all_cells
from trace_engine.causal.settings import CausalConfig
from trace_engine.config import Cell, ModelConfig
from trace_engine.evaluation.multiple_choice import score_questions
from trace_engine.models import mask_experts, open_model

TARGET_SECONDS = 180
EVERY = 16
"""One expert of so many is scanned naively too."""


def main() -> int:
    opened = open_model(ModelConfig(), hashed=False)
    questions = read_questions(
        CausalConfig(max_questions=int(sys.argv[1]) if sys.argv[1:] else 100)
    )
    started = time.perf_counter()
    examination = Examination(opened, questions)
    spent = time.perf_counter() - started
    cells = all_cells(opened)
    replayed: dict[Cell, float] = {}
    naive: dict[Cell, float] = {}
    same = True
    for number, cell in enumerate(cells):
        started = time.perf_counter()
        answers = examination.without([cell])
        replayed[cell] = time.perf_counter() - started
        if number % EVERY == EVERY // 2:
            started = time.perf_counter()
            with mask_experts(opened, [cell]):
                scores = score_questions(opened.model, opened.tokenizer, questions)
            naive[cell] = time.perf_counter() - started
            same &= bool(np.array_equal(scores.correct, answers.correct_N))
    _print(spent, replayed, naive, examination.answers, same)
    return 0


def _print(
    spent: float,
    replayed: dict[Cell, float],
    naive: dict[Cell, float],
    answers: Answers,
    same: bool,
) -> None:
    print(f"Hardware: {hardware()}")
    total = spent + sum(replayed.values())
    print(
        f"Scan of {len(replayed)} experts, {len(answers.correct_N)} questions: {total:.0f} s "
        f"(target {TARGET_SECONDS} s), of which {spent:.1f} s for the model as it is."
    )
    for layer in sorted({cell.layer for cell in replayed}):
        own = [replayed[cell] for cell in replayed if cell.layer == layer]
        print(f"  layer {layer}: {median(own):.2f} s an expert ({min(own):.2f} to {max(own):.2f})")
    own = sorted(naive.values())
    whole = len(replayed) * sum(own) / len(own)
    ratios = sorted(replayed[cell] / naive[cell] for cell in naive)
    print(
        f"Naive: {median(own):.2f} s an expert ({own[0]:.2f} to {own[-1]:.2f}, n = {len(own)}), "
        f"{whole:.0f} s for all. Scan over naive: {total / whole:.2f} (the same experts: median "
        f"{median(ratios):.2f}, {ratios[0]:.2f} to {ratios[-1]:.2f})."
    )
    print(f"Same right and wrong answers on the sampled experts: {'yes' if same else 'NO'}.")


if __name__ == "__main__":
    sys.exit(main())
