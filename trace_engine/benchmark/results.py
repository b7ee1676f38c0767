"""Every evaluation of every run of a table as one flat frame: the raw numbers behind it."""

import json
from typing import Any

import pandas as pd

from trace_engine.benchmark.answers import Answers
from trace_engine.benchmark.plan import Trial
from trace_engine.benchmark.settings import BenchConfig
from trace_engine.benchmark.store import Result

Measured = tuple[Trial, Result]


def results_frame(config: BenchConfig, measured: list[Measured]) -> pd.DataFrame:
    """One line per evaluation: row, phase, seed, hyperparameters, step, accuracies, drift, time.

    A run that failed has one line with its sentence. Accuracies are over the questions whose number
    is in the `n` columns.
    """
    lines: list[dict[str, Any]] = []
    for trial, result in measured:
        base = {
            **trial.row._asdict(),
            "phase": trial.phase,
            "seed": trial.seed,
            "setting": trial.number,
            "point": json.dumps(trial.point, sort_keys=True),
            "run": trial.key[:12],
            "failed": result["failed"] or "",
        }
        if not result["evaluations"]:
            lines.append(base)
            continue
        answers = Answers.of(result["evaluations"], config.forget_category)
        shares, utility_T = answers.shares(answers.once()), answers.utility(answers.once())[0]
        for at, evaluation in enumerate(result["evaluations"]):
            lines.append(
                base
                | {
                    "step": evaluation["step"],
                    "forget": shares[config.forget_category][0, at],
                    "utility": utility_T[at],
                    **{f"accuracy {group}": value[0, at] for group, value in shares.items()},
                    **{f"n {group}": size for group, size in answers.sizes().items()},
                    "overlap": evaluation["overlap"],
                    "forget_nll": evaluation["forget_nll"],
                    "retain_nll": evaluation["retain_nll"],
                    "train_seconds": round(evaluation["seconds"], 3),
                }
            )
    return pd.DataFrame(lines)
