"""How far routing moved between two states of a model on the same tokens: erased, or merely
re-routed?

Overlap is |A and B|/K of the experts chosen before and after (OLMoE's router saturation, on two
states). Accepted cost: the interval is the normal one from document-level residuals, not a
bootstrap.

Dims: N tokens, L MoE sites, K experts per token.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trace_engine.errors import InputError
from trace_engine.routing.resample import ratio_of_sums, ratio_standard_error

CHUNK = 65_536


@dataclass(frozen=True, slots=True, eq=False)
class Drift:
    """Overlap per site; arrays of shape (L,)."""

    overlap: NDArray[np.float64]
    """Mean share of a token's experts that stayed; 1 is unmoved, K/E is what chance leaves."""
    low: NDArray[np.float64]
    """95 % interval, within [0, 1]; [0, 1] when there are fewer than two units."""
    high: NDArray[np.float64]
    n: int
    """Units of the interval."""
    unit: Literal["documents", "tokens"]
    tokens: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "overlap": self.overlap.tolist(),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "n": self.n,
            "unit": self.unit,
            "tokens": self.tokens,
        }


def drift(
    before_NLK: ArrayLike, after_NLK: ArrayLike, document_N: ArrayLike | None = None
) -> Drift:
    """Overlap of the experts that the same tokens chose before and after.

    before_NLK, after_NLK: chosen experts (N, L, K) in any order, -1 for a skipped slot; numpy
    arrays or CPU tensors. document_N: each token's document; the interval is then over documents,
    else over tokens, which is too narrow when tokens of a document are alike. A token whose slots
    are all skipped in both states counts as unmoved. Raises InputError when shapes differ or there
    is no token.
    """
    total_DL, tokens_D = overlap_totals(before_NLK, after_NLK, document_N)
    overlap_L = ratio_of_sums(total_DL, tokens_D)
    low_L, high_L = np.zeros_like(overlap_L), np.ones_like(overlap_L)
    if len(tokens_D) >= 2:
        half_L = 1.959964 * ratio_standard_error(total_DL, tokens_D)
        low_L = np.clip(overlap_L - half_L, 0.0, 1.0)
        high_L = np.clip(overlap_L + half_L, 0.0, 1.0)
    return Drift(
        overlap=overlap_L,
        low=low_L,
        high=high_L,
        n=len(tokens_D),
        unit="tokens" if document_N is None else "documents",
        tokens=int(tokens_D.sum()),
    )


def overlap_totals(
    before_NLK: ArrayLike, after_NLK: ArrayLike, document_N: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The overlap summed over each document's tokens (D, L), and its number of tokens (D,); without
    document_N every token by itself. Takes and raises what `drift` does.
    """
    before, after = np.asarray(before_NLK), np.asarray(after_NLK)
    if before.shape != after.shape or before.ndim != 3:
        raise InputError(
            f"Drift needs two arrays (tokens, sites, experts per token) of one shape, found "
            f"{before.shape} and {after.shape}: were the same tokens probed?"
        )
    if len(before) == 0:
        raise InputError("Drift needs at least one token; the probe saw none.")
    overlap_NL = np.concatenate(
        [
            token_overlap(before[start : start + CHUNK], after[start : start + CHUNK])
            for start in range(0, len(before), CHUNK)
        ]
    )
    if document_N is None:
        return overlap_NL, np.ones(len(overlap_NL))
    documents = np.asarray(document_N)
    if documents.shape != (len(before),):
        raise InputError(
            f"document_N must name one document per token ({len(before)}), found shape "
            f"{documents.shape}."
        )
    _, unit_N = np.unique(documents, return_inverse=True)
    tokens_D = np.bincount(unit_N).astype(np.float64)
    total_DL = np.stack([np.bincount(unit_N, column) for column in overlap_NL.T], axis=1)
    return np.asarray(total_DL, dtype=np.float64), tokens_D


def token_overlap(
    before_NLK: NDArray[np.integer[Any]], after_NLK: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Share of chosen experts in common per token and site, shape (N, L).

    Over the larger number of filled slots of the two states, so it is symmetric and |A and B|/K
    when no slot is skipped.
    """
    same_NLKK = before_NLK[..., :, None] == after_NLK[..., None, :]
    common_NL = (same_NLKK & (before_NLK >= 0)[..., :, None]).sum(axis=(2, 3))
    filled_NL = np.maximum((before_NLK >= 0).sum(axis=2), (after_NLK >= 0).sum(axis=2))
    out_NL = np.ones(common_NL.shape)
    return np.asarray(np.divide(common_NL, filled_NL, out=out_NL, where=filled_NL > 0))
