"""Content address of a profile: what was asked, of which weights, over which documents.

The same question has the same key, so it is never computed twice. Accepted cost: settings that
change the numbers only by rounding (batch size, device) are part of the question too.
"""

import hashlib
import json

from trace_engine.config import ProfileConfig
from trace_engine.routing.storage import SCHEMA


def profile_key(
    config: ProfileConfig,
    model_fingerprint: str,
    forget_fingerprint: str,
    retain_fingerprint: str,
) -> str:
    """SHA-256, 64 hex digits, over the settings and the three fingerprints.

    Where the model and the sets lie, and the run's name, are no part of it: their contents are.
    """
    asked = config.model_dump(mode="json", exclude={"name", "forget", "retain"})
    asked["model"] = {
        name: value
        for name, value in config.model.asked().items()
        if name not in ("source", "revision")
    }
    asked |= {
        "schema": SCHEMA,
        "model_fingerprint": model_fingerprint,
        "forget_fingerprint": forget_fingerprint,
        "retain_fingerprint": retain_fingerprint,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
