"""TRACE: which experts of a Mixture-of-Experts model carry a body of knowledge, and can it be
removed?

The public Python API. Names are loaded when first used, so that `import trace_engine` costs
nothing and a process that only reads settings or profiles never loads torch.
"""

# ruff: noqa: F401 (the imports below are for type checkers; __getattr__ does them at run time)

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from trace_engine.audit import AuditConfig, read_audit, run_audit, verify_audit
    from trace_engine.benchmark import BenchConfig, read_bench, read_table, run_table
    from trace_engine.calibration import (
        FittedWeights,
        Selection,
        WeightPreview,
        fit_weights,
        preview_weights,
        select_experts,
    )
    from trace_engine.causal import ablate, erased_or_rerouted, scan
    from trace_engine.config import (
        Cell,
        EvaluationConfig,
        ModelConfig,
        ProfileConfig,
        SelectionConfig,
        SetConfig,
        TrainableConfig,
        UnlearnConfig,
        WeightsConfig,
        read_config,
        to_yaml,
    )
    from trace_engine.errors import TraceError
    from trace_engine.evaluation import (
        Estimate,
        Evaluation,
        KnowledgeCheck,
        Materials,
        evaluate,
        families_of,
        knowledge_check,
        routing_probe,
        score_questions,
        set_loss,
    )
    from trace_engine.export import export_run
    from trace_engine.health import MachineStatus, Report, doctor, status
    from trace_engine.models import (
        Inspection,
        OpenModel,
        inspect_closely,
        inspect_model,
        mask_experts,
        open_model,
    )
    from trace_engine.routing import (
        Mismatch,
        Profile,
        contexts,
        drift,
        expert_card,
        mismatch,
        profile,
    )
    from trace_engine.sets import (
        Document,
        DocumentSet,
        Question,
        load_set,
        overlap,
        read_questions,
        split_documents,
    )
    from trace_engine.sweeps import plan_sweep, sweep
    from trace_engine.unlearning import Session, UnlearnResult, check_knowledge, drive, unlearn

_ROOMS: dict[str, tuple[str, ...]] = {
    "audit": ("AuditConfig", "read_audit", "run_audit", "verify_audit"),
    "benchmark": ("BenchConfig", "read_bench", "read_table", "run_table"),
    "calibration": (
        "FittedWeights",
        "Selection",
        "WeightPreview",
        "fit_weights",
        "preview_weights",
        "select_experts",
    ),
    "causal": ("ablate", "erased_or_rerouted", "scan"),
    "config": (
        "Cell",
        "EvaluationConfig",
        "ModelConfig",
        "ProfileConfig",
        "SelectionConfig",
        "SetConfig",
        "TrainableConfig",
        "UnlearnConfig",
        "WeightsConfig",
        "read_config",
        "to_yaml",
    ),
    "errors": ("TraceError",),
    "evaluation": (
        "Estimate",
        "Evaluation",
        "KnowledgeCheck",
        "Materials",
        "evaluate",
        "families_of",
        "knowledge_check",
        "routing_probe",
        "score_questions",
        "set_loss",
    ),
    "export": ("export_run",),
    "health": ("MachineStatus", "Report", "doctor", "status"),
    "models": (
        "Inspection",
        "OpenModel",
        "inspect_closely",
        "inspect_model",
        "mask_experts",
        "open_model",
    ),
    "routing": (
        "Mismatch",
        "Profile",
        "contexts",
        "drift",
        "expert_card",
        "mismatch",
        "profile",
    ),
    "sets": (
        "Document",
        "DocumentSet",
        "Question",
        "load_set",
        "overlap",
        "read_questions",
        "split_documents",
    ),
    "sweeps": ("plan_sweep", "sweep"),
    "unlearning": ("Session", "UnlearnResult", "check_knowledge", "drive", "unlearn"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "__version__",
    *_ROOM_OF,
]


def __getattr__(name: str) -> Any:
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module 'trace_engine' has no attribute {name!r}")
    return getattr(import_module(f"trace_engine.{room}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
