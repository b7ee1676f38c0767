"""The audit: does this model hold a body of knowledge, is it gone, and who may check that?

Names are loaded when first used: a page that fills in the form pays for no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trace_engine.audit.rules import Finding, RulesConfig, judge
    from trace_engine.audit.run import Audited, run_audit
    from trace_engine.audit.settings import AuditConfig, FormConfig, read_audit
    from trace_engine.audit.verify import Verified, verify_audit

_MODULES: dict[str, tuple[str, ...]] = {
    "rules": ("Finding", "RulesConfig", "judge"),
    "run": ("Audited", "run_audit"),
    "settings": ("AuditConfig", "FormConfig", "read_audit"),
    "verify": ("Verified", "verify_audit"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "AuditConfig",
    "Audited",
    "Finding",
    "FormConfig",
    "RulesConfig",
    "Verified",
    "judge",
    "read_audit",
    "run_audit",
    "verify_audit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"trace_engine.audit.{_HOME[name]}"), name)
