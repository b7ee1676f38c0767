"""What of the settings decides a result, for resuming and for recognising a launch.

One definition, because the launcher refuses early what the worker would refuse late. It accepts
that labels are no part of it.
"""

from typing import Any

from trace_engine.config import ProfileConfig, UnlearnConfig


def identity_of(config: ProfileConfig | UnlearnConfig) -> dict[str, Any]:
    """All fields but labels, as JSON values."""
    return config.model_dump(
        mode="json", exclude={"name": True, "forget": {"label"}, "retain": {"label"}}
    )
