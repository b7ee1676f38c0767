"""Entropy balancing on activity patterns: weights of least KL from uniform that meet every target.

Damped Newton on the dual, log mean exp(a·λ) − f*·λ (Hainmueller 2012, eq. 8; raking), over unique
patterns with counts. Targets that no positive weights can meet are recognised and relaxed, with the
residual stated. Accepted trade-off: the Hessian is dense over the selected cells (S² per pattern).

Dims: P patterns, S selected cells, R rank of the cells' covariance.
"""

from dataclasses import dataclass, replace

import numpy as np

from trace_engine.calibration.activity import Bools, Floats, Patterns, parts

GAP_TOLERANCE = 1e-10
"""Largest gap of a solved target; far below the 1e-6 that is promised."""
CLOSED = 1e-6
"""What counts as a closed gap when cells are named as relaxed."""
RANK_TOLERANCE = 1e-12
"""Eigenvalues below this share of the largest are directions that no token (any more) moves in."""
SETTLED = 0.1
"""Newton's last step in log weights: towards a target on the hull's boundary it stays near 1."""
MAX_SPREAD = 100.0
"""Log of the largest over the smallest weight at which the search is given up."""
ELASTIC_BOUND = 10.0
"""Largest |λ| of a relaxed solution: a cell's tokens count at most e^10 times as much for it."""
_PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)
_WORST = (0.5, 0.2, 0.05)
_MAX_STEPS = 60


@dataclass(frozen=True, slots=True, eq=False)
class DualSolution:
    """λ and what it reaches; `solved` means that every entry of `target_S` is met."""

    lambda_S: Floats
    target_S: Floats
    """The targets solved for: those asked for, except where `relaxed_S`."""
    achieved_S: Floats
    relaxed_S: Bools
    solved: bool
    steps: int
    """Newton steps, over all attempts."""

    @property
    def gap(self) -> float:
        """Largest distance between what was solved for and what was reached."""
        return float(np.abs(self.achieved_S - self.target_S).max(initial=0.0))


class EntropyBalance:
    """The dual over one set of patterns; every column must have a token (exclude it otherwise)."""

    def __init__(self, patterns: Patterns) -> None:
        self._active_PS = patterns.active_PS
        self._share_P = patterns.share_P
        self.frequency_S: Floats = patterns.frequency_S
        self._start_SS = self._covariance(np.log(self._share_P))
        self._range_SR = _range_of(self._start_SS)

    def slope(self, gap_S: Floats) -> float:
        """√(dᵀC⁻¹d): how fast log weights spread (their deviation) per κ towards a gap d = fF − fR,
        at uniform weights; 0 where no weighting moves towards it.
        """
        move_S = self._direction(self._start_SS, -self._project(gap_S), 0.0)
        return 0.0 if move_S is None else float(np.sqrt(max(float(gap_S @ move_S), 0.0)))

    def solve(self, target_S: Floats, start_S: Floats | None = None) -> DualSolution:
        """Newton from `start_S` (default zero: uniform weights).

        Targets outside the affine hull (collinear cells with different targets) are projected
        onto it and marked. `solved` is False when the projected target is not strictly inside the
        convex hull of the patterns, as far as float64 can tell.
        """
        projected_S = self.frequency_S + self._project(target_S - self.frequency_S)
        relaxed_S = np.abs(projected_S - target_S) > CLOSED
        start_S = np.zeros(len(target_S)) if start_S is None else self._project(start_S)
        return self._newton(projected_S, start_S, relaxed_S)

    def solve_relaxed(self, target_S: Floats) -> DualSolution:
        """As `solve`, but never unsolved: targets that cannot be met are relaxed, and marked.

        The elastic dual (penalty ρ/2‖λ‖²: residuals are ρλ) with the smallest ρ that bounds λ
        shows what can be reached. The cells with the largest residuals, as few as will do, are
        relaxed to what it reached and the others solved exactly, from there on; where that fails
        too, all are.
        """
        first = self.solve(target_S)
        if first.solved:
            return first
        elastic, steps = self._elastic(first)
        residual_S = np.abs(elastic.achieved_S - first.target_S)
        for share in _WORST:
            worst_S = residual_S >= share * residual_S.max()
            nearer_S = np.where(worst_S, elastic.achieved_S, first.target_S)
            second = self.solve(nearer_S, elastic.lambda_S)
            steps += second.steps
            if second.solved and np.abs(second.lambda_S).max() <= 2 * ELASTIC_BOUND:
                break
        else:
            second = replace(elastic, target_S=elastic.achieved_S)
        relaxed_S = np.abs(second.achieved_S - target_S) > CLOSED
        return replace(second, relaxed_S=relaxed_S, solved=True, steps=steps)

    def _elastic(self, first: DualSolution) -> tuple[DualSolution, int]:
        """The smallest penalty that bounds λ, by bisection: where one does, all larger ones do."""
        steps, lowest, highest = first.steps, 0, len(_PENALTIES)
        bounded: DualSolution | None = None
        while lowest < highest:
            # At the last penalty, 1, |λ| is a residual and so always bounded.
            place = min((lowest + highest) // 2, len(_PENALTIES) - 1)
            start_S = np.zeros(len(first.target_S)) if bounded is None else bounded.lambda_S
            found = self._newton(first.target_S, start_S, first.relaxed_S, _PENALTIES[place])
            steps += found.steps
            if found.solved and np.abs(found.lambda_S).max() <= ELASTIC_BOUND:
                bounded, highest = found, place
            else:
                lowest = place + 1
        return (found if bounded is None else bounded), steps

    def _newton(
        self, target_S: Floats, start_S: Floats, relaxed_S: Bools, penalty: float = 0.0
    ) -> DualSolution:
        lambda_S, moved, steps, solved = start_S, 0.0, 0, False
        score_P, value = self._value(lambda_S, target_S, penalty)
        while True:
            log_weight_P = np.log(self._share_P) + score_P
            mean_S = self._mean(log_weight_P)
            slope_S = mean_S - target_S + penalty * lambda_S
            gap = float(np.abs(slope_S).max(initial=0.0))
            solved = gap <= GAP_TOLERANCE and moved < SETTLED
            if solved or steps == _MAX_STEPS or moved > MAX_SPREAD:
                break
            uniform = not lambda_S.any()
            covariance_SS = self._start_SS if uniform else self._covariance(log_weight_P)
            move_S = self._direction(covariance_SS, slope_S, penalty)
            if move_S is None or np.ptp(score_P) > MAX_SPREAD:
                break
            if not penalty and _unreachable(target_S, lambda_S, score_P):
                break
            decrease = -float(slope_S @ move_S)
            step = 1.0
            while step > 1e-9:
                trial_P, trial = self._value(lambda_S + step * move_S, target_S, penalty)
                # This near the optimum the value is flat to rounding, and Newton needs no damping.
                if decrease < 1e-10 or trial <= value - 1e-4 * step * decrease:
                    break
                step /= 2
            lambda_S = lambda_S + step * move_S
            moved = float(np.ptp(trial_P - score_P))
            score_P, value, steps = trial_P, trial, steps + 1
        return DualSolution(lambda_S, target_S, mean_S, relaxed_S, solved, steps)

    def _value(self, lambda_S: Floats, target_S: Floats, penalty: float) -> tuple[Floats, float]:
        """Log weights a·λ per pattern, and the dual at λ."""
        score_P = np.empty(len(self._active_PS))
        for part in parts(self._active_PS):
            score_P[part] = self._active_PS[part].astype(np.float64) @ lambda_S
        top = float(score_P.max())
        total = top + float(np.log(self._share_P @ np.exp(score_P - top)))
        return score_P, total - float(target_S @ lambda_S) + 0.5 * penalty * float(
            lambda_S @ lambda_S
        )

    def _mean(self, log_weight_P: Floats) -> Floats:
        """Weighted frequencies (S,) of the columns."""
        weight_P = np.exp(log_weight_P - log_weight_P.max())
        sum_S = np.zeros(self._active_PS.shape[1])
        for part in parts(self._active_PS):
            sum_S += weight_P[part] @ self._active_PS[part].astype(np.float64)
        return np.asarray(sum_S / weight_P.sum(), dtype=np.float64)

    def _covariance(self, log_weight_P: Floats) -> Floats:
        """Weighted covariance (S, S) of the columns."""
        root_P = np.exp(0.5 * (log_weight_P - log_weight_P.max()))
        cells = self._active_PS.shape[1]
        moment_SS = np.zeros((cells, cells))
        for part in parts(self._active_PS):
            rooted_PS = self._active_PS[part] * root_P[part, None]
            moment_SS += rooted_PS.T @ rooted_PS
        moment_SS /= float(root_P @ root_P)
        mean_S = np.diag(moment_SS)  # a is 0 or 1, so its second moment is its mean
        return np.asarray(moment_SS - np.outer(mean_S, mean_S), dtype=np.float64)

    def _direction(self, covariance_SS: Floats, slope_S: Floats, penalty: float) -> Floats | None:
        """Newton's move inside the range; None when weights have run so far that rank was lost."""
        range_SR = self._range_SR
        curvature_RR = range_SR.T @ covariance_SS @ range_SR + penalty * np.eye(range_SR.shape[1])
        values_R, vectors_RR = np.linalg.eigh(curvature_RR)
        if values_R.min(initial=np.inf) <= RANK_TOLERANCE * values_R.max(initial=0.0):
            return None
        slope_R = vectors_RR.T @ (range_SR.T @ slope_S)
        return -np.asarray(range_SR @ (vectors_RR @ (slope_R / values_R)), dtype=np.float64)

    def _project(self, vector_S: Floats) -> Floats:
        return np.asarray(self._range_SR @ (self._range_SR.T @ vector_S), dtype=np.float64)


def _unreachable(target_S: Floats, lambda_S: Floats, score_P: Floats) -> bool:
    """Whether λ proves that no weights meet the targets: f*·λ is a mean of a·λ (`score_P`) under
    any that do, and so at most the largest.
    """
    rounding = 1e-9 * max(1.0, float(np.abs(score_P).max(initial=0.0)))
    return float(target_S @ lambda_S) > float(score_P.max()) + rounding


def _range_of(covariance_SS: Floats) -> Floats:
    """Orthonormal basis (S, R) of the directions in which the columns vary at all."""
    values_S, vectors_SS = np.linalg.eigh(covariance_SS)
    # Where nothing varies the largest eigenvalue is rounding noise, hence the absolute bound.
    kept_S = values_S > RANK_TOLERANCE * values_S.max(initial=0.01)
    # The identity keeps λ free of rotation noise in the usual case that nothing is collinear.
    return np.eye(len(values_S)) if kept_S.all() else vectors_SS[:, kept_S]
