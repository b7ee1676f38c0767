"""A finished run as a folder that plain transformers (or PEFT) opens, with its model card.

Loads no torch: only an adapter's folder needs the model.
"""

from trace_engine.export.card import Form, model_card
from trace_engine.export.folder import check_exportable, export_run, forms_of

__all__ = ["Form", "check_exportable", "export_run", "forms_of", "model_card"]
