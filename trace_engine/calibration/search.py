"""The dial: one weighting rule on one set of patterns at any hardness, and the search for `auto`.

`auto` encloses the largest κ that keeps enough tokens effective. Accepted trade-off: it takes the
effective sample size to fall as κ rises, which clipping can bend; the κ it returns always holds the
floor, but where the curve bends a larger one might too.

Dims: T calibration tokens, S selected cells, U usable (coverable) cells, P unique patterns, W
distinct weights.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trace_engine.calibration.activity import Bools, Floats, Patterns, parts
from trace_engine.calibration.exact import DualSolution, EntropyBalance
from trace_engine.calibration.rules import (
    LOG_LINEAR,
    apply_rule,
    normalise_weights,
    ratios,
    target_frequencies,
)
from trace_engine.config import WeightsConfig
from trace_engine.errors import CalibrationError

HARDNESS_STEPS = 2**12
"""`auto` finds κ to within one of so many steps."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """One rule's parameters at one κ."""

    hardness: float
    coefficient_U: Floats
    normaliser: float
    relaxed_U: Bools
    clipped: int = 0
    steps: int = 0
    solved: bool = True


class Probe(NamedTuple):
    """What `auto` knows of one κ."""

    place: int
    """κ in steps."""
    fit: Fit
    root: float
    """√-ln(ESS/N); infinite where nothing meets the targets."""


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """The calibration tokens' weights as values with multiplicities, and summed per pattern."""

    value_W: Floats
    count_W: NDArray[np.int64]
    total_P: Floats

    @property
    def ess_share(self) -> float:
        """(Σw)²/Σw² over N (Kish), in (0, 1]."""
        total = float(self.count_W @ self.value_W)
        return total**2 / float(self.count_W @ self.value_W**2) / float(self.count_W.sum())


class Search:
    """One rule on one set of patterns, at any κ."""

    def __init__(
        self,
        patterns: Patterns,
        used_S: Bools,
        forget_U: Floats,
        config: WeightsConfig,
        sequence_T: NDArray[np.integer[Any]] | None,
    ) -> None:
        if config.rule == "odds" and used_S.sum() > 1:
            raise CalibrationError(
                "The rule `odds` closes the gap of exactly one expert, and "
                f"{int(used_S.sum())} of the selected ones can be covered. Select one, or use "
                "`exact`."
            )
        self._patterns = patterns
        self._active_PU = patterns.active_PS[:, used_S]
        self._forget_U, self._retain_U = forget_U, patterns.frequency_S[used_S]
        self._config, self._sequence_T = config, sequence_T
        exact = config.rule == "exact" and bool(used_S.any())
        self._balance = (
            EntropyBalance(replace(patterns, active_PS=self._active_PU)) if exact else None
        )

    def fixed(self, hardness: float) -> Fit:
        """The fit at the κ asked for; impossible targets are relaxed."""
        target_U = target_frequencies(self._forget_U, self._retain_U, hardness)
        if self._balance is None:
            return self._simple(hardness, target_U)
        return self._exact(hardness, self._balance.solve_relaxed(target_U))

    def auto(self) -> Fit:
        """The largest κ, in steps of 2^-12, whose effective sample size holds the floor.

        ln(ESS/N) falls like κ² from 0, so √-ln(ESS/N) is close to a line: it is followed to where
        the floor lies, from uniform weights (where its slope is known) on, until two neighbours
        enclose it. Every third step halves what is left, whatever the curve's shape.
        """
        goal = float(np.sqrt(-np.log(self._config.ess_floor)))
        low = Probe(0, self.fixed(0.0), 0.0)
        high: Probe | None = None
        place, tries = self._first_place(goal), 0
        while high is None or high.place - low.place > 1:
            probe = self._probe(place, low.fit)
            if probe.root > goal:
                high = probe
            elif place == HARDNESS_STEPS:
                return probe.fit
            else:
                low = probe
            tries += 1
            place = self._next_place(low, high, goal, halve=tries % 3 == 0)
        return low.fit

    def _first_place(self, goal: float) -> int:
        """Where uniform weights' slope puts the floor: ln(ESS/N) = -κ² dᵀC⁻¹d to second order."""
        if self._balance is None:
            return HARDNESS_STEPS
        slope = self._balance.slope(self._forget_U - self._retain_U)
        return max(1, int(min(goal / slope, 1.0) * HARDNESS_STEPS)) if slope else HARDNESS_STEPS

    def _next_place(self, low: Probe, high: Probe | None, goal: float, halve: bool) -> int:
        """On the line through the two probes, strictly between them; midway where one has none."""
        if high is None:
            there = low.place * goal / low.root if low.root else np.inf
            return int(min(max(there, low.place + 1), HARDNESS_STEPS))
        if halve or np.isinf(high.root):
            there = (low.place + high.place) / 2
        else:
            share = (goal - low.root) / (high.root - low.root)
            there = low.place + share * (high.place - low.place)
        return int(min(max(there, low.place + 1), high.place - 1))

    def _probe(self, place: int, near: Fit) -> Probe:
        """The fit at a κ, started from the fit at another."""
        hardness = place / HARDNESS_STEPS
        target_U = target_frequencies(self._forget_U, self._retain_U, hardness)
        if self._balance is not None:
            share = hardness / near.hardness if near.hardness else 0.0
            found = self._balance.solve(target_U, share * near.coefficient_U)
            fit = self._exact(hardness, found)
        elif self._config.rule == "odds" and (target_U >= 1).any():
            return Probe(place, near, np.inf)
        else:
            fit = self._simple(hardness, target_U)
        if not fit.solved:
            return Probe(place, fit, np.inf)
        return Probe(place, fit, float(np.sqrt(-np.log(min(self.weigh(fit).ess_share, 1.0)))))

    def _exact(self, hardness: float, found: DualSolution) -> Fit:
        fit = Fit(
            hardness, found.lambda_S, 1.0, found.relaxed_S, steps=found.steps, solved=found.solved
        )
        return replace(fit, normaliser=self._mean(fit))

    def _simple(self, hardness: float, target_U: Floats) -> Fit:
        rule, clip = self._config.rule, self._config.clip
        ratio_U = ratios(rule, target_U, self._retain_U, clip)
        free_U = ratios(rule, target_U, self._retain_U, (0.0, np.inf))
        coefficient_U = self._config.strength * np.log(ratio_U) if rule in LOG_LINEAR else ratio_U
        relaxed_U = np.zeros(len(ratio_U), dtype=np.bool_)
        clipped = int((ratio_U != free_U).sum())
        fit = Fit(hardness, coefficient_U, 1.0, relaxed_U, clipped=clipped)
        return replace(fit, normaliser=self._mean(fit))

    def _mean(self, fit: Fit) -> float:
        return float(self._patterns.counts_P @ self._raw(fit)) / self._patterns.tokens

    def _raw(self, fit: Fit) -> Floats:
        """Weights per pattern over `fit.normaliser`."""
        return in_parts(
            lambda active_PU: apply_rule(
                active_PU.astype(np.float64),
                self._config.rule,
                fit.coefficient_U,
                strength=self._config.strength,
                lowest=self._config.clip[0],
                normaliser=fit.normaliser,
            ),
            self._active_PU,
        )

    def weigh(self, fit: Fit) -> Weighed:
        """Weights under the configured normalising; mode `batch` is shown as `set`."""
        patterns = self._patterns
        none = self._config.normalise == "none"
        raw_P = self._raw(replace(fit, normaliser=1.0) if none else fit)
        if self._config.normalise != "sequence":
            return Weighed(raw_P, patterns.counts_P, raw_P * patterns.counts_P)
        w_T = normalise_weights(raw_P[patterns.inverse_N], "sequence", None, self._sequence_T)
        total_P = np.bincount(patterns.inverse_N, weights=w_T, minlength=len(raw_P))
        return Weighed(w_T, np.ones(len(w_T), dtype=np.int64), total_P.astype(np.float64))


def in_parts(function: Callable[[Bools], Floats], active_PS: Bools) -> Floats:
    """Apply a function of activity rows part by part."""
    return np.concatenate([function(active_PS[part]) for part in parts(active_PS)])
