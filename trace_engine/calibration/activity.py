"""Which selected experts a token uses, and the frequencies that follow: plain arrays, no profile.

Everything here takes numpy arrays, and `active_matrix` torch tensors too, without importing torch
at module time: the page previews weights in a process that never loads it. Accepted trade-off:
array functions are typed by overloads around an untyped core.

Dims: N sampled tokens, T tokens of a batch, L MoE sites, K experts per token, S selected cells, P
unique patterns, E experts.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from trace_engine.config import Cell
from trace_engine.errors import CalibrationError
from trace_engine.routing import TokenSample

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.integer[Any]]
_PART = 2**16
"""Numbers of a float64 copy: half a megabyte stays in the cache, and in the heap; larger
blocks are mapped anew each time (app/memory.py), which took longer than the arithmetic."""


@overload
def active_matrix(index_NLK: Ints, layers: Sequence[int], cells: Sequence[Cell]) -> Bools: ...
@overload
def active_matrix(
    index_NLK: "Tensor", layers: Sequence[int], cells: Sequence[Cell]
) -> "Tensor": ...
def active_matrix(index_NLK: Any, layers: Sequence[int], cells: Sequence[Cell]) -> Any:
    """a[n, s]: whether token n routes to cell s.

    index_NLK (N, L, K) integers, -1 for a skipped slot; `layers[l]` is the decoder layer of site l.
    Returns bool (N, S), numpy or torch as given, on the same device. Raises CalibrationError when a
    cell's layer is not among `layers`.
    """
    if index_NLK.ndim != 3 or index_NLK.shape[1] != len(layers):
        raise CalibrationError(
            f"Routing of shape {tuple(index_NLK.shape)} does not fit {len(layers)} MoE layers: "
            "expected (tokens, layers, experts per token)."
        )
    by_layer = {layer: index_NLK[:, site] for site, layer in enumerate(layers)}
    return active_columns(by_layer, cells, like=index_NLK)


def active_columns(index_of_layer: Mapping[int, Any], cells: Sequence[Cell], *, like: Any) -> Any:
    """As `active_matrix`, from one (T, K) index per decoder layer, as a routing tap delivers it.

    Only the layers of `cells` are read. `like` gives kind, device and, with no cells, T.
    """
    missing = sorted({cell.layer for cell in cells} - set(index_of_layer))
    if missing:
        raise CalibrationError(
            f"Layer {missing[0]} has no routing here. MoE layers: {_listed(index_of_layer)}."
        )
    if isinstance(like, np.ndarray):
        return _active_columns(index_of_layer, cells, like.shape[0])
    import torch

    active = torch.zeros((like.shape[0], len(cells)), dtype=torch.bool, device=like.device)
    for column, cell in enumerate(cells):
        active[:, column] = (index_of_layer[cell.layer] == cell.expert).any(-1)
    return active


def _active_columns(
    index_of_layer: Mapping[int, Ints], cells: Sequence[Cell], tokens: int
) -> Bools:
    """The numpy half: a layer's slots are laid side by side once, so that cells compare in rows."""
    active_ST = np.zeros((len(cells), tokens), dtype=np.bool_)
    for layer in {cell.layer for cell in cells}:
        slots_KT = np.ascontiguousarray(index_of_layer[layer].T)
        for row, cell in enumerate(cells):
            if cell.layer == layer:
                active_ST[row] = (slots_KT == cell.expert).any(axis=0)
    return np.ascontiguousarray(active_ST.T)


def calibration_frequencies(
    sample: TokenSample, layers: Sequence[int], cells: Sequence[Cell]
) -> Floats:
    """Share of labelled tokens that route to each cell, shape (S,).

    The mask is that of calibration: positions whose label t+1 is in the loss, BOS included. Raises
    CalibrationError when the sample has no such position.
    """
    labelled_N = labelled(sample)
    active_NS = active_matrix(sample.index_NLK[labelled_N], layers, cells)
    return np.asarray(active_NS.mean(axis=0), dtype=np.float64)


def trained_positions(sample: TokenSample, max_length: int | None) -> TokenSample:
    """The sample with only those labels that documents of `max_length` tokens have.

    Position t predicts token t+1, which must lie inside. The sample itself where none lies beyond.
    """
    if max_length is None:
        return sample
    inside_N = sample.labelled_N & (sample.position_N < max_length - 1)
    same = np.array_equal(inside_N, sample.labelled_N)
    return sample if same else replace(sample, labelled_N=inside_N)


def labelled(sample: TokenSample) -> Bools:
    """The sample's calibration mask, (N,). Raises CalibrationError when it is empty."""
    if not sample.labelled_N.any():
        raise CalibrationError(
            "The token sample has no position with a label in the loss, so there is nothing to "
            "calibrate on. Check that the documents hold more than one token."
        )
    return sample.labelled_N


def weighted_frequency(
    sample: TokenSample,
    layers: Sequence[int],
    weights_N: Floats,
    num_experts: int | None = None,
) -> Floats:
    """Weighted activation frequency of every cell over the labelled tokens, shape (L, E).

    `weights_N` has one weight per sampled token, and the result does not depend on their scale.
    With `skipped_slots` it sums to K in every layer, whatever the weights (method.md, property
    4). E is `num_experts`, or one more than the largest expert in the sample.
    """
    mask_N = labelled(sample)
    index_NLK, w_N = sample.index_NLK[mask_N], np.asarray(weights_N, dtype=np.float64)[mask_N]
    experts = int(index_NLK.max(initial=0)) + 1 if num_experts is None else num_experts
    slots = np.repeat(w_N, index_NLK.shape[2])
    frequency_LE = np.zeros((len(layers), experts))
    place_NK = np.empty((len(index_NLK), index_NLK.shape[2]), dtype=np.intp)
    for site in range(len(layers)):
        # One more than the expert, so that skipped slots (-1) fall into a bin of their own.
        np.add(index_NLK[:, site], 1, out=place_NK, dtype=np.intp)
        frequency_LE[site] = np.bincount(place_NK.ravel(), slots, experts + 1)[1:]
    return np.asarray(frequency_LE / w_N.sum())


def skipped_slots(sample: TokenSample, weights_N: Floats) -> Floats:
    """Weighted mean number of slots per labelled token that chose no expert, shape (L,)."""
    mask_N = labelled(sample)
    w_N = np.asarray(weights_N, dtype=np.float64)[mask_N]
    empty_NL = (sample.index_NLK[mask_N] < 0).sum(axis=-1)
    return np.asarray(w_N @ empty_NL / w_N.sum(), dtype=np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Patterns:
    """Unique rows of an activity matrix: all that a token's weight depends on."""

    active_PS: Bools
    counts_P: NDArray[np.int64]
    inverse_N: NDArray[np.int64]
    """Row of `active_PS` for each token."""

    @property
    def tokens(self) -> int:
        return len(self.inverse_N)

    @property
    def share_P(self) -> Floats:
        """Share of tokens with each pattern; sums to 1."""
        return self.counts_P / self.tokens

    @property
    def frequency_S(self) -> Floats:
        """Unweighted frequency of each column: an integer over an integer, rounded once."""
        return self.sums(self.counts_P.astype(np.float64)) / self.tokens

    def sums(self, weight_P: Floats) -> Floats:
        """Sum of per-pattern weights over the patterns that use each column, shape (S,)."""
        return np.asarray(np.einsum("p,ps->s", weight_P, self.active_PS))


def unique_patterns(active_NS: Bools) -> Patterns:
    """Reduce an activity matrix (N, S) to its unique rows, sorted, so that token order is gone.

    Rows are packed into 64-bit words and ranked one word after the other, so any S costs only
    sorts of integers.
    """
    tokens, cells = active_NS.shape
    packed = np.packbits(active_NS, axis=1)
    padded = np.zeros((tokens, -(-cells // 64) * 8), dtype=np.uint8)
    padded[:, : packed.shape[1]] = packed
    rank_N = np.zeros(tokens, dtype=np.int64)
    for word, word_N in enumerate(padded.view(np.uint64).T):
        values, place_N = np.unique(word_N, return_inverse=True)
        rank_N = rank_N * len(values) + place_N
        if word:
            rank_N = np.unique(rank_N, return_inverse=True)[1]
    counts_P = np.bincount(rank_N, minlength=1 if tokens else 0)
    first_P = np.zeros(len(counts_P), dtype=np.int64)
    first_P[rank_N] = np.arange(tokens)
    return Patterns(active_NS[first_P], counts_P.astype(np.int64), rank_N)


def parts(active_PS: Bools) -> Iterator[slice]:
    """Slices of the rows whose float64 copies are small; one, empty, where there is no row."""
    rows, columns = active_PS.shape
    size = max(1, _PART // max(1, columns))
    return (slice(start, start + size) for start in range(0, max(1, rows), size))


def _listed(layers: Mapping[int, Any]) -> str:
    return ", ".join(str(layer) for layer in sorted(layers)) or "none"
