"""What TRACE's weighting costs a step, and how long a whole run takes: targets 1.05 and 90 s.

Two sessions of one configuration, unweighted and `exact` with live routing, take steps in turn on
the same documents, in ABBA order, so that a busy moment of the machine hits both; the claim is the
median of the pairs' ratios. The bundled model is used where the pack has it, else random weights of
its shape, and the choice is printed. Nothing is asserted.
"""

import argparse
import json
import statistics
import time
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench import hardware
from trace_engine.bundled import PACK
from trace_engine.config import UnlearnConfig
from trace_engine.routing import Profile
from trace_engine.unlearning import Session, drive

TARGET_RATIO = 1.05
TARGET_SECONDS = 90


def configuration(source: str, **settings: Any) -> UnlearnConfig:
    """The bundled sets and questions, all parameters, NPO."""
    return UnlearnConfig.model_validate(
        {
            "model": {"source": source, "device": "cpu"},
            "forget": {"source": "demo:forget"},
            "retain": {"source": "demo:retain"},
            "evaluation": {"questions": "demo:questions/validation", "every": 10},
            "max_steps": 60,
            "checkpoint_every": 1000,
        }
        | settings
    )


def step_ratio(source: str, pairs: int, method: str, kept: Profile) -> dict[str, Any]:
    """Seconds of weighted and unweighted steps taken in turn, and the median ratio of the pairs."""
    sessions = {
        rule: Session(
            configuration(source, method=method, weights={"rule": rule}, max_steps=pairs + 3),
            profile=kept,
        )
        for rule in ("uniform", "exact")
    }
    for session in sessions.values():
        for _ in range(3):
            session.train_step()
    seconds: dict[str, list[float]] = {rule: [] for rule in sessions}
    for pair in range(pairs):
        order = list(sessions.items())
        for rule, session in order if pair % 2 else order[::-1]:
            seconds[rule].append(session.train_step()["seconds"])
    for session in sessions.values():
        session.close()
    ratios = [
        weighted / plain
        for weighted, plain in zip(seconds["exact"], seconds["uniform"], strict=True)
    ]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "method": method,
        "pairs": pairs,
        "unweighted_median_s": statistics.median(seconds["uniform"]),
        "exact_median_s": statistics.median(seconds["exact"]),
        "median_ratio": statistics.median(ratios),
        "quartiles": [low, high],
        "target_ratio": TARGET_RATIO,
    }


def whole_run(source: str) -> tuple[dict[str, Any], Profile]:
    """Seconds of a 60-step TRACE run with an evaluation every 10 steps, part by part."""
    started, processor = time.perf_counter(), time.process_time()
    session = Session(configuration(source))
    opened = time.perf_counter()
    facts = session.facts()
    checked = time.perf_counter()
    rows: list[dict[str, Any]] = []
    drive(session, on_row=rows.append)
    ended = time.perf_counter()
    stepping = sum(row["seconds"] for row in rows if row["kind"] == "train")
    figures = {
        "steps": session.step,
        "evaluations": sum(row["kind"] == "eval" for row in rows),
        "questions": sum(facts["questions"]["counts"].values()),
        "parameters": facts["trainable"]["total"],
        "open_profile_fit_s": opened - started,
        "start_model_check_s": checked - opened,
        "steps_s": stepping,
        "evaluations_s": ended - checked - stepping,
        "run_s": ended - checked,
        "total_s": ended - started,
        "processor_s": time.process_time() - processor,
        "target_s": TARGET_SECONDS,
    }
    kept = session.profile
    session.close()
    return figures, kept


def measure(pairs: int) -> dict[str, Any]:
    """Every figure of this module."""
    with TemporaryDirectory() as folder:
        source, kind = _model(folder)
        run, kept = whole_run(source)
        ratios = [step_ratio(source, pairs, method, kept) for method in ("npo", "graddiff")]
    return {
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "model": kind,
        "run": run,
        "steps": ratios,
    }


def _model(folder: str) -> tuple[str, str]:
    if (PACK / "models" / "target").is_dir():
        return "demo:target", "the bundled model"
    from trace_engine.demo.recipe.batches import train_tokenizer
    from trace_engine.demo.recipe.build_sets import training_documents
    from trace_engine.demo.recipe.train import Recipe, build_model

    texts = [row["text"] for row in training_documents(PACK / "extract", PACK, "target")]
    tokenizer = train_tokenizer(texts, Recipe().vocabulary)
    build_model(Recipe(), tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, "random weights of the bundled shape (the pack has no model yet)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    figures = measure(arguments.pairs)
    if arguments.json:
        print(json.dumps(figures))
        return
    print(f"{figures['model']}; {figures['hardware']}; {figures['threads']} threads")
    for row in figures["steps"]:
        print(
            f"{row['method']:9}unweighted {row['unweighted_median_s']:.3f} s   exact, live routing "
            f"{row['exact_median_s']:.3f} s   median ratio {row['median_ratio']:.3f} "
            f"(quartiles {row['quartiles'][0]:.3f} to {row['quartiles'][1]:.3f}, {row['pairs']} "
            f"pairs; target <= {TARGET_RATIO})"
        )
    run = figures["run"]
    print(
        f"{run['steps']} steps and {run['evaluations']} evaluations of {run['questions']} "
        "questions: "
        f"{run['run_s']:.1f} s (steps {run['steps_s']:.1f} s, evaluations "
        f"{run['evaluations_s']:.1f} s; target <= {TARGET_SECONDS} s)"
    )
    print(
        f"before it: open, profile, fit {run['open_profile_fit_s']:.1f} s, check of the start "
        "model "
        f"{run['start_model_check_s']:.1f} s; processor time of all {run['processor_s']:.1f} s"
    )


if __name__ == "__main__":
    main()
