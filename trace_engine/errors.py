"""Errors a user can act on: what, where, expected, found, and what happened to their work.

Everything the engine refuses on purpose is a `TraceError`; page and CLI print its text and no
traceback. Anything else that escapes is a bug, and is shown as one.
"""


class TraceError(Exception):
    """Base of every refusal whose message is written for the person at the screen."""


class AlreadySaidError(TraceError):
    """Another process of the same job has said why it ends: this one ends likewise, silently."""


class InputError(TraceError, ValueError):
    """A document, question, setting or name that cannot be used as given."""


class ModelError(TraceError):
    """A model that cannot be opened, is dense, or whose routers cannot be tapped."""


class CalibrationError(TraceError):
    """A selection or weighting that is empty or impossible."""


class RunError(TraceError):
    """A run directory that is missing, locked, damaged, finished, or not of these settings."""


class NonFiniteLossError(TraceError):
    """Loss or gradient became NaN or infinite; raised before the step it would have poisoned."""
