"""From test runs to the table: figures per row with intervals, paired differences, the headline.

Every figure is a mean over seeds. A figure is missing where any of its seeds has none: an average
over the seeds that happened to forget far enough would compare different things.
"""

# Dims: B resamples, S seeds, T evaluations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trace_engine.benchmark.answers import Answers
from trace_engine.benchmark.choose import Choice
from trace_engine.benchmark.curves import Floats, area, attained, matched
from trace_engine.benchmark.plan import RowId
from trace_engine.benchmark.resampling import (
    Draws,
    Interval,
    Sample,
    difference,
    estimate,
    relative_gain,
)
from trace_engine.benchmark.results import Measured
from trace_engine.benchmark.same_settings import same_settings
from trace_engine.benchmark.settings import BenchConfig
from trace_engine.benchmark.store import Result

ALL = "all but forget"
CURVE_LEVELS = np.round(np.linspace(0.25, 1.0, 31), 3)


@dataclass(frozen=True, slots=True)
class Table:
    """What a table says."""

    figures: pd.DataFrame
    """One line per row, measure, group and level: value, low, high, and the same as a difference to
    the row's `compare_to` weighting, paired."""
    rows: list[dict[str, Any]]
    """Per row: role, chosen settings, whether the compared row has others, which of them lie at an
    end of the grid, seeds, how many reached the first level, failures."""
    headlines: list[dict[str, Any]]
    """Per retain set the relative utility gain of the best row with TRACE over the strongest
    baseline, both by validation score."""
    curves: pd.DataFrame
    """Mean attained utility of each row over levels of forget accuracy, for the figure."""
    same: pd.DataFrame
    """Each weighting against `compare_to` at the same settings (`same_settings`)."""
    facts: dict[str, Any]
    """What was asked of what."""


def make_table(
    config: BenchConfig,
    chosen: Mapping[RowId, Choice],
    measured: list[Measured],
    facts: dict[str, Any],
    tuned: list[Measured],
) -> Table:
    """The table of all rows, also of those without a number."""
    draws = Draws.of(facts["questions"], config.resamples, config.seed)
    runs = {row: [result for trial, result in measured if trial.row == row] for row in chosen}
    samples = {row: _samples(config, draws, found) for row, found in runs.items()}
    lines: list[dict[str, Any]] = []
    for row in chosen:
        reference = samples.get(row._replace(weighting=config.compare_to), {})
        for key, sample in samples[row].items():
            line = {**row._asdict(), "role": config.weightings[row.weighting].role}
            line |= dict(zip(("measure", "group", "level"), key, strict=True))
            line |= _columns("", estimate(sample, draws))
            # Seconds of runs that were made at different hours compare the hours.
            paired = (
                row.weighting != config.compare_to
                and key in reference
                and key[0] != "train seconds"
            )
            line |= _columns(
                "difference_",
                difference(sample, reference[key], draws) if paired else Interval(None, None, None),
            )
            lines.append(line | {"seeds": sample.seeds})
    return Table(
        figures=pd.DataFrame(lines, columns=_COLUMNS),
        rows=[_entry(config, row, chosen, runs[row], samples[row]) for row in chosen],
        headlines=[_headline(config, retain, chosen, samples, draws) for retain in config.retain],
        curves=_curves(config, runs),
        same=same_settings(config, tuned),
        facts=facts,
    )


_COLUMNS = [
    "retain", "method", "weighting", "role", "measure", "group", "level", "value", "low", "high",
    "difference_value", "difference_low", "difference_high", "seeds",
]  # fmt: skip
Key = tuple[str, str, float | None]
"""Measure, group, level."""


def _columns(prefix: str, found: Interval) -> dict[str, float | None]:
    return {
        f"{prefix}value": found.value,
        f"{prefix}low": found.low,
        f"{prefix}high": found.high,
    }


def _samples(config: BenchConfig, draws: Draws, runs: list[Result]) -> dict[Key, Sample]:
    """Every figure of a row per seed and resample; NaN for a run that failed."""
    found: dict[Key, list[tuple[float, Floats]]] = {}
    for result in runs:
        for key, value in _figures(config, draws, result).items():
            found.setdefault(key, []).append(value)
    return {
        key: Sample(
            np.array([value for value, _ in values]),
            np.stack([value_B for _, value_B in values], axis=1),
        )
        for key, values in found.items()
    }


def _figures(config: BenchConfig, draws: Draws, result: Result) -> dict[Key, tuple[float, Floats]]:
    """Figures of one run: on its questions once each, and on each resample of them."""
    first = config.levels[0]
    groups = [ALL, *(g for g in draws.weights if g != config.forget_category)]
    keys: list[Key] = [("utility", group, first) for group in groups]
    keys += [("utility", ALL, level) for level in config.levels[1:]]
    keys += [("area", ALL, None), ("forget", config.forget_category, first)]
    keys += [("forget at end", config.forget_category, None)]
    keys += [("overlap", "", first), ("steps", "", first), ("train seconds", "", None)]
    if result["failed"]:
        nothing = np.full(draws.resamples, np.nan)
        return {key: (float("nan"), nothing) for key in keys}
    answers = Answers.of(result["evaluations"], config.forget_category)
    values = []
    for weights in (answers.once(), draws.weights):
        forget_BT, utility_BT = answers.forget(weights), answers.utility(weights)
        shares = answers.shares(weights) | {ALL: utility_BT}
        place = matched(forget_BT, utility_BT, first)
        row: list[Floats] = [place.read(shares[group]) for group in groups]
        row += [attained(forget_BT, utility_BT, level) for level in config.levels[1:]]
        row += [area(forget_BT, utility_BT, *config.area), place.read(forget_BT)]
        row.append(forget_BT[:, -1])
        for name in ("overlap", "step"):
            path_T = np.array([float(e[name]) for e in result["evaluations"]])
            row.append(place.read(np.broadcast_to(path_T, forget_BT.shape)))
        row.append(np.full(len(forget_BT), float(result["evaluations"][-1]["seconds"])))
        values.append(row)
    once, resampled = values
    return {
        key: (float(one[0]), many_B) for key, one, many_B in zip(keys, once, resampled, strict=True)
    }


def _entry(
    config: BenchConfig,
    row: RowId,
    chosen: Mapping[RowId, Choice],
    runs: list[Result],
    samples: dict[Key, Sample],
) -> dict[str, Any]:
    choice = chosen[row]
    compared = chosen.get(row._replace(weighting=config.compare_to), choice)
    at_level = samples.get(("utility", ALL, config.levels[0]))
    return {
        **row._asdict(),
        "role": config.weightings[row.weighting].role,
        "point": choice.point,
        "own_settings": None not in (choice.point, compared.point)
        and _of_method(config, row, choice) != _of_method(config, row, compared),
        "at_the_end": _at_the_end(config, row, choice),
        "validation": choice.score,
        "eligible": sum(score is not None for score in choice.scores),
        "tried": len(choice.scores),
        "seeds": len(runs),
        "reached": 0 if at_level is None else int(np.isfinite(at_level.value_S).sum()),
        "selected": sorted({run["selected"] for run in runs if not run["failed"]}),
        "ess_share": [run["ess_share"] for run in runs if not run["failed"]],
        "hardness": [run["hardness"] for run in runs if not run["failed"]],
        "failed": [run["failed"] for run in runs if run["failed"]],
    }


def _of_method(config: BenchConfig, row: RowId, choice: Choice) -> dict[str, Any]:
    """The chosen settings of the method, which all its rows search alike."""
    point = choice.point or {}
    return {name: point[name] for name in config.methods[row.method].grid if name in point}


def _at_the_end(config: BenchConfig, row: RowId, choice: Choice) -> list[str]:
    """Settings whose chosen value is the least or the largest that was tried."""
    grid = {**config.methods[row.method].grid, **config.weightings[row.weighting].grid}
    return [
        name
        for name, value in (choice.point or {}).items()
        if len(grid[name]) > 1 and value in (grid[name][0], grid[name][-1])
    ]


def _headline(
    config: BenchConfig,
    retain: str,
    chosen: Mapping[RowId, Choice],
    samples: Mapping[RowId, dict[Key, Sample]],
    draws: Draws,
) -> dict[str, Any]:
    """Relative utility gain of the best TRACE row over the strongest baseline at the first level.

    Both are picked by their validation scores, so that test questions pick nothing.
    """
    best: dict[str, RowId] = {}
    for role in ("trace", "baseline"):
        scored = [
            (choice.score, row)
            for row, choice in chosen.items()
            if row.retain == retain
            and config.weightings[row.weighting].role == role
            and choice.score is not None
        ]
        if scored:
            best[role] = max(scored, key=lambda item: item[0])[1]
    found: dict[str, Any] = {"retain": retain, "level": config.levels[0]}
    found |= {role: list(row)[1:] for role, row in best.items()}
    key: Key = ("utility", ALL, config.levels[0])
    if len(best) < 2 or any(key not in samples[row] for row in best.values()):
        return found | _columns("", Interval(None, None, None))
    gain = relative_gain(samples[best["trace"]][key], samples[best["baseline"]][key], draws)
    return found | _columns("", gain)


def _curves(config: BenchConfig, runs: Mapping[RowId, list[Result]]) -> pd.DataFrame:
    lines = []
    for row, results in runs.items():
        usable = [result for result in results if not result["failed"]]
        if not usable or len(usable) < len(results):
            continue
        paths = []
        for result in usable:
            answers = Answers.of(result["evaluations"], config.forget_category)
            once = answers.once()
            paths.append((answers.forget(once), answers.utility(once)))
        for level in CURVE_LEVELS:
            mean = float(np.mean([attained(f, u, float(level))[0] for f, u in paths]))
            lines.append({**row._asdict(), "level": float(level), "utility": mean})
    frame = pd.DataFrame(lines, columns=["retain", "method", "weighting", "level", "utility"])
    return frame.dropna(subset="utility").reset_index(drop=True)
