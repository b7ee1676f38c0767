"""`exact` at size: 1 M retain tokens x 64 selected experts, and the same dual left to scipy.

The reference is scipy.optimize.minimize (L-BFGS-B with the gradient) on every token, without
unique patterns, at a size it finishes in seconds; the ratio at that size is the claim. Synthetic
routing with documents and co-active experts, whose forget side is a tilt of the retain side:
feasible by construction.
"""

import time

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from bench import hardware
from trace_engine.calibration.activity import unique_patterns
from trace_engine.calibration.exact import EntropyBalance
from trace_engine.calibration.fit import fit_arrays
from trace_engine.config import Cell, WeightsConfig

LAYERS, EXPERTS, TOP_K = 16, 64, 8

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def activity(tokens: int, cells: int, seed: int = 0) -> tuple[Bools, Floats]:
    """Retain activity (N, S), `cells` over 16 layers of 64 experts top-8, and forget
    frequencies."""
    rng = np.random.default_rng(seed)
    per_layer = -(-cells // LAYERS)
    topic_N = np.repeat(rng.integers(20, size=-(-tokens // 200)), 200)[:tokens]
    columns = []
    for _ in range(LAYERS):
        logits_NE = rng.normal(0, 1, (20, EXPERTS)).astype(np.float32)[topic_N]
        logits_NE += rng.gumbel(size=(tokens, EXPERTS)).astype(np.float32)
        bar_N = np.partition(logits_NE, -TOP_K, axis=1)[:, -TOP_K]
        columns.append(logits_NE[:, :per_layer] >= bar_N[:, None])
    active_NS = np.concatenate(columns, axis=1)[:, :cells]
    score_N = active_NS.astype(np.float32) @ rng.normal(0.4, 0.3, cells).astype(np.float32)
    w_N = np.exp(score_N.astype(np.float64))
    return active_NS, np.einsum("n,ns->s", w_N, active_NS) / w_N.sum()


def by_newton(active_NS: Bools, target_S: Floats) -> tuple[float, float, int, int]:
    """Seconds, largest gap, Newton steps and patterns."""
    start = time.perf_counter()
    patterns = unique_patterns(active_NS)
    found = EntropyBalance(patterns).solve(target_S)
    return time.perf_counter() - start, found.gap, found.steps, len(patterns.active_PS)


def by_scipy(active_NS: Bools, target_S: Floats) -> tuple[float, float, int]:
    """Seconds, largest gap and iterations of the same dual on every token, by L-BFGS-B."""
    start = time.perf_counter()
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
    return time.perf_counter() - start, gap, int(found.nit)


def main() -> None:
    print(hardware())
    small_NS, small_S = activity(100_000, 64)
    seconds, gap, steps, patterns = by_newton(small_NS, small_S)
    other_seconds, other_gap, iterations = by_scipy(small_NS, small_S)
    print("100,000 tokens x 64 experts")
    print(
        f"  Newton on patterns  {seconds:6.2f} s  gap {gap:.1e}  {steps} steps, {patterns:,} rows"
    )
    print(
        f"  scipy L-BFGS-B      {other_seconds:6.2f} s  gap {other_gap:.1e}  {iterations} iterations"
    )
    print(f"  ratio scipy / Newton {other_seconds / seconds:.1f}")

    active_NS, target_S = activity(1_000_000, 64)
    seconds, gap, steps, patterns = by_newton(active_NS, target_S)
    print("1,000,000 tokens x 64 experts, kappa = 1")
    print(
        f"  Newton on patterns  {seconds:6.2f} s  gap {gap:.1e}  {steps} steps, {patterns:,} rows"
    )

    cells = tuple(Cell(s * LAYERS // 64, s) for s in range(8))
    eight_NS, eight_S = active_NS[:200_000, ::8], target_S[::8]
    start = time.perf_counter()
    fitted = fit_arrays(eight_NS.copy(), eight_S, cells, WeightsConfig(ess_floor=0.9))
    print("200,000 tokens x 8 experts, kappa = auto (what the selection page does)")
    print(
        f"  {time.perf_counter() - start:.2f} s, kappa {fitted.hardness:.3f}, "
        f"ESS/N {fitted.diagnostics['ess_share']:.3f}, gap {fitted.diagnostics['residual_gap']:.1e}"
    )


if __name__ == "__main__":
    main()
