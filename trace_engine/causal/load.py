"""How much passes through an expert, and random experts through which as much does.

An expert's load is its share of its layer's routed slots, the mean of the forget and the retain
side of a profile, so that neither side's size decides; without a profile it is its share of the
questions' own slots. Random sets have as many experts in each layer as the set they stand for, and
a summed load within 10 % of its; where there are too few of those, the nearest are taken, and the
result says how many met it.
"""

# Dims: L sites, E experts

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trace_engine.causal.results import EQUAL
from trace_engine.config import Cell
from trace_engine.errors import InputError
from trace_engine.routing import Profile

Array = NDArray[np.float64]

_TRIES = 4_000


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """Each expert's share of its layer's routed slots."""

    layers: tuple[int, ...]
    num_experts_L: tuple[int, ...]
    share_LE: Array
    """Sums to 1 over a layer's experts; 0 where there is no such expert."""
    source: str
    """What was counted, in words."""

    def of(self, cells: Sequence[Cell]) -> float:
        """Summed load of some experts."""
        return float(sum(self.share_LE[self.layers.index(c.layer), c.expert] for c in cells))


@dataclass(frozen=True, slots=True)
class Draw:
    """One random set in the place of another."""

    cells: tuple[Cell, ...]
    load: float
    equal: bool
    """Whether its load is within `EQUAL` of that of the set it stands for."""


def profile_load(profile: Profile) -> Load:
    """Load on a profile's two sides, each counting half."""
    sides = [_shares(profile.counts(side).counts_DLE.sum(axis=0)) for side in ("forget", "retain")]
    return Load(
        profile.layers,
        profile.num_experts_L,
        (sides[0] + sides[1]) / 2,
        "share of the layer's routed slots in the profile, forget and retain side half each",
    )


def question_load(
    layers: Sequence[int], num_experts_L: Sequence[int], tokens_LE: NDArray[np.int64]
) -> Load:
    """Load on the questions that are asked, choices included."""
    return Load(
        tuple(layers),
        tuple(num_experts_L),
        _shares(tokens_LE),
        "share of the layer's routed slots on the questions themselves",
    )


def _shares(counts_LE: NDArray[np.int64]) -> Array:
    total_L = counts_LE.sum(axis=1, keepdims=True).astype(np.float64)
    out_LE = np.zeros(counts_LE.shape)
    return np.asarray(np.divide(counts_LE, total_L, out=out_LE, where=total_L > 0))


def random_sets(load: Load, cells: Sequence[Cell], draws: int, seed: int) -> list[Draw]:
    """Distinct random sets of equal load, as many per layer as in `cells` and none of those.

    Fewer than `draws` where a model has no more such sets. Raises InputError where a layer has too
    few other experts for one.
    """
    generator = np.random.default_rng([seed, 17])
    target = load.of(cells)
    total_R = np.zeros(_TRIES)
    parts: list[tuple[int, NDArray[np.int64]]] = []
    for row, layer in enumerate(load.layers):
        dead = sorted({cell.expert for cell in cells if cell.layer == layer})
        if not dead:
            continue
        free = np.setdiff1d(np.arange(load.num_experts_L[row]), dead)
        if len(free) < len(dead):
            raise InputError(
                f"Layer {layer}: {len(dead)} of {load.num_experts_L[row]} experts are ablated, so "
                "no random set of as many others exists. Ablate fewer, or ask for 0 draws."
            )
        order = generator.random((_TRIES, len(free))).argsort(axis=1)[:, : len(dead)]
        picked_RS = np.sort(free[order], axis=1)
        parts.append((layer, picked_RS))
        total_R += load.share_LE[row][picked_RS].sum(axis=1)
    apart_R = np.abs(total_R - target)
    equal_R = apart_R <= EQUAL * target
    # Equal ones in the order in which chance made them, then the nearest.
    ranked = np.lexsort((np.where(equal_R, 0.0, apart_R), ~equal_R))
    found: dict[tuple[Cell, ...], Draw] = {}
    for place in ranked:
        if len(found) == draws:
            break
        drawn = tuple(
            Cell(layer, int(expert)) for layer, picked in parts for expert in picked[place]
        )
        found.setdefault(drawn, Draw(drawn, float(total_R[place]), bool(equal_R[place])))
    return list(found.values())


def nearest_in_load(load: Load, cells: Sequence[Cell], number: int) -> list[list[int]]:
    """For each cell, the places of the other cells nearest to it in load, over all layers."""
    share_C = np.array([load.of([cell]) for cell in cells])
    found = []
    for place, share in enumerate(share_C):
        apart_C = np.abs(share_C - share)
        apart_C[place] = np.inf
        order = np.argsort(apart_C, kind="stable")[: min(number, len(cells) - 1)]
        found.append([int(other) for other in order])
    return found
