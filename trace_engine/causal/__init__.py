"""Causal evidence: what hangs on an expert, and whether knowledge is gone or merely re-routed.

`ablate` takes a set of experts out and asks the same questions again, beside random experts of
equal load; `scan` does so for every expert of a model; `erased_or_rerouted` compares two models.
Every result is a frozen dataclass with `to_dict()` and `from_dict()`. Names are loaded when first
used: reading a result costs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trace_engine.causal.ablation import ablate
    from trace_engine.causal.agreement import Agreement
    from trace_engine.causal.load import Load, profile_load
    from trace_engine.causal.paired import Change, Effect
    from trace_engine.causal.replay import Examination
    from trace_engine.causal.rerouted import erased_or_rerouted
    from trace_engine.causal.rerouted_results import Rerouted
    from trace_engine.causal.results import Ablation, Band, CellEffect, Scan
    from trace_engine.causal.scanning import scan

_MODULES: dict[str, tuple[str, ...]] = {
    "ablation": ("ablate",),
    "agreement": ("Agreement",),
    "load": ("Load", "profile_load"),
    "paired": ("Change", "Effect"),
    "replay": ("Examination",),
    "rerouted": ("erased_or_rerouted",),
    "rerouted_results": ("Rerouted",),
    "results": ("Ablation", "Band", "CellEffect", "Scan"),
    "scanning": ("scan",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "Ablation",
    "Agreement",
    "Band",
    "CellEffect",
    "Change",
    "Effect",
    "Examination",
    "Load",
    "Rerouted",
    "Scan",
    "ablate",
    "erased_or_rerouted",
    "profile_load",
    "scan",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
