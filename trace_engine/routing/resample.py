"""Resampling whole documents: bootstrap of a ratio of sums, and a studentised max-statistic
permutation.

Tokens of a document are alike, so the document is what is drawn and what is relabelled. Accepted
cost: permutations are products with 0/1 label matrices in float64, B x D x 3C multiplications,
which is exact for counts and fast up to some ten thousand documents.

Dims: D documents, C cells, B resamples.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trace_engine.progress import Meter, ProgressCallback, ignore_progress
from trace_engine.routing.profile import RoutingCounts

Array = NDArray[np.float64]

CHUNK_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class MaxTest:
    """Observed studentised gaps and their permutation p-values, each of shape (C,)."""

    z: Array
    p_cell: Array
    p_max: Array


def gap_rngs(seed: int) -> list[np.random.Generator]:
    """Independent generators of a map: gap interval, random split, its interval, permutations."""
    return np.random.default_rng(seed).spawn(4)


def known_documents(counts: RoutingCounts) -> NDArray[np.intp]:
    """Documents with a counted token, in the order of their ids, shape (D',).

    Resampling in this order makes results independent of the order in which documents came.
    """
    known = np.flatnonzero(counts.tokens_D > 0)
    return np.array(sorted(known, key=lambda d: counts.document_ids[d]), dtype=np.intp)


def ratio_of_sums(total_DC: Array, tokens_D: Array) -> Array:
    """Token-weighted mean of a set: all totals over all tokens, shape (C,)."""
    return np.asarray(total_DC.sum(axis=0) / tokens_D.sum())


def ratio_standard_error(total_DC: Array, tokens_D: Array) -> Array:
    """Document-level standard error of `ratio_of_sums`, shape (C,).

    Linearised ratio estimator (Cochran, Sampling Techniques, 1977, section 6.4): residuals x_d - f
    n_d, with D/(D - 1). Needs at least two documents.
    """
    documents = len(tokens_D)
    residual_DC = total_DC - ratio_of_sums(total_DC, tokens_D) * tokens_D[:, None]
    variance_C = documents / (documents - 1) * (residual_DC**2).sum(axis=0) / tokens_D.sum() ** 2
    return np.asarray(np.sqrt(variance_C))


def bootstrap_ratios(
    total_DC: Array, tokens_D: Array, resamples: int, rng: np.random.Generator
) -> Array:
    """`ratio_of_sums` of `resamples` draws of D documents with replacement, shape (B, C).

    Every document must have at least one token. The draws depend on `rng` and D alone, so one cell
    by itself gets the interval it has on the whole map.
    """
    documents = len(tokens_D)
    parts = []
    for rows in _chunks(resamples, documents + total_DC.shape[1]):
        drawn = rng.integers(documents, size=(rows, documents))
        drawn += np.arange(rows)[:, None] * documents
        times_BD = np.bincount(drawn.ravel(), minlength=rows * documents)
        times_BD = times_BD.reshape(rows, documents).astype(np.float64)
        parts.append((times_BD @ total_DC) / (times_BD @ tokens_D)[:, None])
    return np.concatenate(parts)


def max_permutation_test(
    total_DC: Array,
    tokens_D: Array,
    forget_D: NDArray[np.bool_],
    permutations: int,
    rng: np.random.Generator,
    floor: float,
    report: ProgressCallback = ignore_progress,
) -> MaxTest:
    """Two-sided test of every cell's gap by relabelling documents, with the max over cells.

    z = (f_forget - f_retain) / sqrt(se_forget^2 + se_retain^2 + floor^2): studentised, so that sets
    that differ in spread but not in mean keep the level (Chung and Romano, Annals of Statistics 41,
    2013); the max over cells controls the family-wise error (Westfall and Young, 1993). p = (1 +
    exceedances)/(1 + B), so the least p is 1/(1 + B). Each side needs at least two documents, each
    document at least one token.
    """
    columns = np.concatenate([total_DC, total_DC * tokens_D[:, None], total_DC**2], axis=1)
    sizes = np.stack([tokens_D, tokens_D**2], axis=1)
    observed_C = _studentised(forget_D[None, :].astype(np.float64), columns, sizes, floor)[0]
    bar_C = np.abs(observed_C)
    bar_C = bar_C - 1e-9 * np.maximum(bar_C, 1.0)
    exceeded_C = np.zeros(len(bar_C), dtype=np.int64)
    exceeded_max_C = np.zeros(len(bar_C), dtype=np.int64)
    meter = Meter("testing gaps", permutations, "permutations", report)
    for rows in _chunks(permutations, len(tokens_D) + columns.shape[1]):
        labels_BD = np.broadcast_to(forget_D.astype(np.float64), (rows, len(tokens_D)))
        z_BC = np.abs(_studentised(rng.permuted(labels_BD, axis=1), columns, sizes, floor))
        exceeded_C += (z_BC >= bar_C).sum(axis=0)
        top_B = np.sort(z_BC.max(axis=1, initial=0.0))
        exceeded_max_C += rows - np.searchsorted(top_B, bar_C, side="left")
        meter.add(rows)
    return MaxTest(
        z=observed_C,
        p_cell=(1 + exceeded_C) / (1 + permutations),
        p_max=(1 + exceeded_max_C) / (1 + permutations),
    )


def benjamini_hochberg(p_C: Array) -> Array:
    """Adjusted p-values that control the false discovery rate (Benjamini and Hochberg, 1995), shape
    (C,)."""
    count = len(p_C)
    order = np.argsort(p_C, kind="stable")
    scaled = p_C[order] * count / np.arange(1, count + 1)
    adjusted = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    out = np.empty(count)
    out[order] = adjusted
    return out


def _studentised(labels_BD: Array, columns: Array, sizes: Array, floor: float) -> Array:
    cells = columns.shape[1] // 3
    sums, size = labels_BD @ columns, labels_BD @ sizes
    documents = float(labels_BD[0].sum())
    f_forget, v_forget = _moments(sums, size, documents, cells)
    f_retain, v_retain = _moments(
        columns.sum(axis=0) - sums, sizes.sum(axis=0) - size, len(sizes) - documents, cells
    )
    return np.asarray((f_forget - f_retain) / np.sqrt(v_forget + v_retain + floor**2))


def _moments(sums: Array, size: Array, documents: float, cells: int) -> tuple[Array, Array]:
    x, xn, xx = sums[:, :cells], sums[:, cells : 2 * cells], sums[:, 2 * cells :]
    n, nn = size[:, :1], size[:, 1:]
    f = x / n
    # Written out, the sum of squares can fall below zero by rounding when every document is alike.
    spread = np.maximum(xx - 2 * f * xn + f**2 * nn, 0.0)
    return f, documents / (documents - 1) * spread / n**2


def _chunks(total: int, width: int) -> Iterator[int]:
    rows = max(1, min(total, CHUNK_BYTES // (8 * width)))
    for start in range(0, total, rows):
        yield min(rows, total - start)
