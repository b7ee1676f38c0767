"""`exact` at size: 1 M retain tokens x 64 selected experts, and the same dual left to scipy.

The reference is scipy.optimize.minimize (L-BFGS-B with the gradient) on every token, without
unique patterns, at sizes it finishes in seconds; the ratio is the claim. Synthetic routing with
topics, whose forget side is a tilt of the retain side: feasible by construction.
"""

import time
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from bench import hardware
from trace_engine.calibration.activity import unique_patterns
from trace_engine.calibration.exact import EntropyBalance
from trace_engine.calibration.fit import fit_arrays
from trace_engine.calibration.search import HARDNESS_STEPS
from trace_engine.config import Cell, WeightsConfig

TOPICS, DOCUMENT, FLOOR = 20, 200, 0.9

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def activity(tokens: int, cells: int, seed: int = 0) -> tuple[Bools, Floats]:
    """Retain activity (N, S), experts co-active by topic, and forget frequencies (S,)."""
    rng = np.random.default_rng(seed)
    topic_N = np.repeat(rng.integers(TOPICS, size=-(-tokens // DOCUMENT)), DOCUMENT)[:tokens]
    share_CS = 1 / (1 + np.exp(rng.normal(2, 1, (TOPICS, cells)))).astype(np.float32)
    active_NS = np.empty((tokens, cells), dtype=np.bool_)
    for column in range(cells):
        active_NS[:, column] = rng.random(tokens, dtype=np.float32) < share_CS[topic_N, column]
    score_N = active_NS.astype(np.float32) @ rng.normal(0.4, 0.3, cells).astype(np.float32)
    w_N = np.exp(score_N.astype(np.float64))
    return active_NS, np.einsum("n,ns->s", w_N, active_NS) / w_N.sum()


def by_newton(active_NS: Bools, target_S: Floats) -> tuple[float, float, int, int]:
    """Seconds, largest gap, Newton steps and patterns."""
    start = time.process_time()
    patterns = unique_patterns(active_NS)
    found = EntropyBalance(patterns).solve(target_S)
    return time.process_time() - start, found.gap, found.steps, len(patterns.active_PS)


class ScipyFit(NamedTuple):
    seconds: float
    gap: float
    iterations: int
    lambda_S: Floats


def by_scipy(active_NS: Bools, target_S: Floats) -> ScipyFit:
    """The same dual on every token, by L-BFGS-B."""
    start = time.process_time()
    wide_NS = active_NS.astype(np.float64)

    def dual(lambda_S: Floats) -> tuple[float, Floats]:
        score_N = wide_NS @ lambda_S
        top = score_N.max()
        w_N = np.exp(score_N - top)
        value = top + np.log(w_N.mean()) - target_S @ lambda_S
        return float(value), w_N @ wide_NS / w_N.sum() - target_S

    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-16, "gtol": 1e-8}
    start_S = np.zeros(len(target_S))
    found = minimize(dual, start_S, jac=True, method="L-BFGS-B", options=options)
    gap = float(np.abs(dual(found.x)[1]).max())
    return ScipyFit(time.process_time() - start, gap, int(found.nit), found.x)


def scipy_auto(active_NS: Bools, target_S: Floats) -> tuple[float, float]:
    """Seconds and kappa of the same bisection, each trial solved by `by_scipy`."""
    start, low, high = time.process_time(), 0.0, 1.0
    retain_S = active_NS.mean(axis=0)
    while high - low > 1 / HARDNESS_STEPS:
        middle = (low + high) / 2
        lambda_S = by_scipy(active_NS, retain_S + middle * (target_S - retain_S)).lambda_S
        w_N = np.exp(active_NS @ lambda_S)
        kept = w_N.sum() ** 2 / (w_N @ w_N) / len(w_N) >= FLOOR
        low, high = (middle, high) if kept else (low, middle)
    return time.process_time() - start, low


def side_by_side(tokens: int, cells: int) -> None:
    active_NS, target_S = activity(tokens, cells)
    print(f"{tokens:,} tokens x {cells} experts, kappa = 1")
    seconds, gap, steps, patterns = by_newton(active_NS, target_S)
    print(
        f"  Newton on patterns  {seconds:7.3f} s, gap {gap:.0e}, {steps} steps, {patterns:,} rows"
    )
    reference, other_gap, iterations, _ = by_scipy(active_NS, target_S)
    print(f"  scipy L-BFGS-B      {reference:7.3f} s, gap {other_gap:.0e}, {iterations} iterations")
    print(f"  ratio {reference / seconds:.1f} (scipy / Newton)")


def main() -> None:
    print(f"{hardware()}; processor seconds of this process")
    side_by_side(200_000, 8)
    side_by_side(100_000, 64)

    active_NS, target_S = activity(1_000_000, 64)
    start = time.perf_counter()
    seconds, gap, steps, patterns = by_newton(active_NS, target_S)
    wall = time.perf_counter() - start
    print("1,000,000 tokens x 64 experts, kappa = 1")
    print(
        f"  Newton on patterns  {seconds:7.3f} s, gap {gap:.0e}, {steps} steps, {patterns:,} rows"
    )
    print(f"  wall clock {wall:.1f} s")
    cells = tuple(Cell(0, expert) for expert in range(64))
    start, begun = time.process_time(), time.perf_counter()
    fitted = fit_arrays(active_NS, target_S, cells, WeightsConfig(ess_floor=0.5))
    print(
        f"  kappa = auto        {time.process_time() - start:7.3f} s, "
        f"wall clock {time.perf_counter() - begun:.1f} s, kappa {fitted.hardness:.4f}, "
        f"ESS/N {fitted.diagnostics['ess_share']:.4f}"
    )
    start = time.process_time()
    relaxed = EntropyBalance(unique_patterns(active_NS)).solve_relaxed(np.full(64, 0.9))
    print(
        f"  impossible targets  {time.process_time() - start:7.3f} s, {relaxed.steps} steps, "
        f"{relaxed.relaxed_S.sum()} cells named"
    )

    active_NS, target_S = activity(200_000, 8)
    cells = tuple(Cell(0, expert) for expert in range(8))
    start = time.process_time()
    fitted = fit_arrays(active_NS, target_S, cells, WeightsConfig(ess_floor=FLOOR))
    seconds = time.process_time() - start
    shown = fitted.diagnostics
    print(
        f"200,000 tokens x 8 experts, kappa = auto with ESS/N >= {FLOOR} (a slider move in the app)"
    )
    print(
        f"  this package        {seconds:7.3f} s, kappa {fitted.hardness:.4f}, "
        f"ESS/N {shown['ess_share']:.4f}, gap {shown['residual_gap']:.0e}"
    )
    reference, hardness = scipy_auto(active_NS, target_S)
    print(f"  bisection on scipy  {reference:7.3f} s, kappa {hardness:.4f}")
    print(f"  ratio {reference / seconds:.1f} (scipy / this package)")


if __name__ == "__main__":
    main()
