"""Where forget and retain route differently: gap, ratio, uncertainty, tests and the two controls.

Everything is computed from a profile's counts, so a map needs no model and no torch, and is saved
beside the profile so that a page computes nothing. Accepted cost: some seconds of matrix products
for a new profile.

Dims: D documents, L MoE sites, E experts, C existing cells, V token ids. Array cells of experts
that a site does not have hold the values of a cell without tokens.
"""

import numpy as np
from numpy.typing import NDArray

from trace_engine.errors import InputError
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.routing.mismatch_map import CELL_COLUMNS, Mismatch
from trace_engine.routing.profile import Profile, RoutingCounts
from trace_engine.routing.resample import (
    MaxTest,
    benjamini_hochberg,
    bootstrap_ratios,
    gap_rngs,
    known_documents,
    max_permutation_test,
    ratio_of_sums,
    ratio_standard_error,
)
from trace_engine.routing.statistics import check_statistic, document_totals
from trace_engine.routing.token_control import token_matched
from trace_engine.spelling import percent

Array = NDArray[np.float64]

FEW_DOCUMENTS = 10
"""Below so many documents a side, a note warns that resampled intervals are too narrow."""


def mismatch(
    profile: Profile,
    statistic: str = "frequency",
    permutations: int | None = None,
    bootstrap: int | None = None,
    seed: int = 0,
    report: ProgressCallback = ignore_progress,
) -> Mismatch:
    """Compare both sides of a profile cell by cell (`method.md` section 1 of the design).

    `permutations` and `bootstrap` default to the profile's settings, then to 9,999 and 1,000.
    Documents without a counted token carry no information and are left out. The order of documents
    does not matter: they are resampled in the order of their ids. With fewer than two documents on
    a side there is no interval and no test: bounds are then the widest possible, p is 1, and a note
    says so. Raises InputError when a side has no counted token or `statistic` is unknown.
    """
    check_statistic(statistic)
    settings = profile.meta.get("settings", {})
    permutations = permutations or int(settings.get("permutations", 9_999))
    bootstrap = bootstrap or int(settings.get("bootstrap", 1_000))
    exists_LE = profile.cell_mask_LE()
    forget = _ordered(profile.forget, statistic, exists_LE, "forget")
    retain = _ordered(profile.retain, statistic, exists_LE, "retain")
    epsilon = 0.5 / min(forget[1].sum(), retain[1].sum())
    rng_gap, rng_split, rng_null, rng_test = gap_rngs(seed)

    columns = compare_sides(forget, retain, bootstrap, rng_gap, epsilon)
    total_DC, tokens_D = (np.concatenate(pair) for pair in zip(forget, retain, strict=True))
    forget_D = np.arange(len(tokens_D)) < len(forget[1])
    split_D = rng_split.permutation(forget_D)
    null = compare_sides(
        (total_DC[split_D], tokens_D[split_D]),
        (total_DC[~split_D], tokens_D[~split_D]),
        bootstrap,
        rng_null,
        epsilon,
    )
    columns |= {"null_difference": null["difference"], "null_ratio_low": null["ratio_low"]}
    if min(len(forget[1]), len(retain[1])) >= 2:
        test = max_permutation_test(
            total_DC, tokens_D, forget_D, permutations, rng_test, epsilon, report
        )
    else:
        ones_C = np.ones(total_DC.shape[1])
        test = MaxTest(z=0 * ones_C, p_cell=ones_C, p_max=ones_C)
    columns |= {"z": test.z, "p_cell": test.p_cell, "p_max": test.p_max}
    columns["q_bh"] = benjamini_hochberg(test.p_cell)
    matched = token_matched(profile, statistic)
    columns["matched_difference"] = (matched.forget_LE - matched.retain_LE)[exists_LE]
    columns["matched_ratio"] = ((matched.forget_LE + epsilon) / (matched.retain_LE + epsilon))[
        exists_LE
    ]
    absent = {"ratio", "ratio_low", "ratio_high", "p_cell", "p_max", "q_bh", "null_ratio_low"}
    absent |= {"matched_ratio"}
    arrays = {
        name: _scatter(columns[name], exists_LE, 1.0 if name in absent else 0.0)
        for name in CELL_COLUMNS
    }
    return Mismatch(
        statistic=statistic,
        layers=profile.layers,
        num_experts_L=profile.num_experts_L,
        **arrays,
        matched_coverage=matched.coverage,
        epsilon=float(epsilon),
        documents_forget=profile.forget.documents,
        documents_retain=profile.retain.documents,
        blocks_forget=len(forget[1]) if profile.forget.unit == "block" else 0,
        blocks_retain=len(retain[1]) if profile.retain.unit == "block" else 0,
        tokens_forget=int(forget[1].sum()),
        tokens_retain=int(retain[1].sum()),
        permutations=permutations,
        bootstrap=bootstrap,
        seed=seed,
        notes=_block_notes(profile)
        + _notes(len(forget[1]), len(retain[1]), permutations, matched.coverage),
    )


def compare_sides(
    forget: tuple[Array, Array],
    retain: tuple[Array, Array],
    bootstrap: int,
    rng: np.random.Generator,
    epsilon: float,
) -> dict[str, Array]:
    """Estimates and 95 % bootstrap intervals of both sides' gap and ratio, each of shape (C,).

    A side is (totals (D, C), tokens (D,)) of documents that each have a token. Fewer than two
    documents on a side: the widest possible bounds.
    """
    f_forget, f_retain = ratio_of_sums(*forget), ratio_of_sums(*retain)
    out = {
        "forget": f_forget,
        "retain": f_retain,
        "difference": f_forget - f_retain,
        "ratio": (f_forget + epsilon) / (f_retain + epsilon),
    }
    if min(len(forget[1]), len(retain[1])) < 2:
        # A frequency is at most 1; gate weights that are not normalised may be larger.
        most_C = np.full_like(f_forget, max(1.0, f_forget.max(), f_retain.max()))
        widest_C = (most_C + epsilon) / epsilon
        return out | {
            "standard_error": most_C,
            "low": -most_C,
            "high": most_C,
            "ratio_low": 1.0 / widest_C,
            "ratio_high": widest_C,
        }
    drawn_forget_BC = bootstrap_ratios(*forget, bootstrap, rng)
    drawn_retain_BC = bootstrap_ratios(*retain, bootstrap, rng)
    low, high = np.quantile(drawn_forget_BC - drawn_retain_BC, (0.025, 0.975), axis=0)
    ratio_low, ratio_high = np.quantile(
        (drawn_forget_BC + epsilon) / (drawn_retain_BC + epsilon), (0.025, 0.975), axis=0
    )
    error_C = np.hypot(ratio_standard_error(*forget), ratio_standard_error(*retain))
    return out | {
        "standard_error": error_C,
        "low": low,
        "high": high,
        "ratio_low": ratio_low,
        "ratio_high": ratio_high,
    }


def _ordered(
    counts: RoutingCounts, statistic: str, exists_LE: NDArray[np.bool_], side: str
) -> tuple[Array, Array]:
    order = known_documents(counts)
    if not len(order):
        raise InputError(f"The {side} set has no counted token, so there is nothing to compare.")
    total_DC = document_totals(counts, statistic)[order][:, exists_LE]
    return total_DC, counts.tokens_D[order].astype(np.float64)


def _scatter(values_C: Array, exists_LE: NDArray[np.bool_], absent: float) -> Array:
    out_LE = np.full(exists_LE.shape, absent)
    out_LE[exists_LE] = values_C
    return out_LE


def _block_notes(profile: Profile) -> tuple[str, ...]:
    return tuple(
        f"The {side} set has {counts.documents:,} documents: counts are kept for "
        f"{int((counts.tokens_D > 0).sum()):,} blocks of documents, and intervals and tests "
        "resample blocks in their place."
        for side, counts in (("forget", profile.forget), ("retain", profile.retain))
        if counts.unit == "block"
    )


def _notes(forget: int, retain: int, permutations: int, coverage: float) -> tuple[str, ...]:
    notes = []
    for side, number in (("forget", forget), ("retain", retain)):
        if number < 2:
            notes.append(
                f"The {side} set has {number} document with tokens: no interval and no test can be "
                "computed from one document, so bounds are the widest possible and p is 1."
            )
        elif number < FEW_DOCUMENTS:
            notes.append(
                f"The {side} set has only {number} documents: resampled intervals are too narrow "
                "at this size."
            )
    if min(forget, retain) >= 2:
        ways = _relabellings(forget, retain)
        if ways < permutations:
            notes.append(
                f"Only {ways} relabellings of {forget} + {retain} documents exist, so no p-value "
                f"can be much below {1 / ways:.2g}."
            )
    if coverage == 0:
        notes.append("No token id is on both sides, so the token-matched control is empty (gap 0).")
    elif coverage < 0.5:
        notes.append(
            f"The token-matched control covers only {percent(coverage, 0)} of the forget tokens: "
            "the others' ids are not seen on the retain side."
        )
    return tuple(notes)


def _relabellings(forget: int, retain: int) -> int:
    ways = 1
    for step in range(1, min(forget, retain) + 1):
        ways = ways * (forget + retain - step + 1) // step
        if ways > 10**9:
            break
    return ways
