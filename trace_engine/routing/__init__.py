"""Which experts tokens are routed to, per document, and where forget and retain differ.

Importing this room does not load torch: only `profile` needs a model, and loads it when called.
"""

from trace_engine.routing.mismatch import mismatch
from trace_engine.routing.mismatch_map import Mismatch, load_mismatch
from trace_engine.routing.profile import Profile, RoutingCounts, TokenSample
from trace_engine.routing.statistics import (
    activation_frequency,
    coactivation,
    gate_mass,
    load_entropy,
    load_share,
    side_statistic,
    uniform_share,
)

__all__ = [
    "Mismatch",
    "Profile",
    "RoutingCounts",
    "TokenSample",
    "activation_frequency",
    "coactivation",
    "gate_mass",
    "load_entropy",
    "load_mismatch",
    "load_share",
    "mismatch",
    "side_statistic",
    "uniform_share",
]
