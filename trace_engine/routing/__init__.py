"""Which experts tokens are routed to, per document, and where forget and retain differ.

Importing this room does not load torch: only `profile` needs a model, and loads it when called.
"""

from typing import TYPE_CHECKING

from trace_engine.config import ProfileConfig
from trace_engine.progress import ProgressCallback, ignore_progress
from trace_engine.routing.contexts import (
    CoExpert,
    Context,
    ExpertCard,
    TopToken,
    contexts,
    expert_card,
    top_tokens,
)
from trace_engine.routing.drift import Drift, drift
from trace_engine.routing.key import profile_key
from trace_engine.routing.layout import Layout
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
from trace_engine.routing.style_control import gap_kept, same_style_gaps
from trace_engine.routing.workers import ALONE, Workers, joined

if TYPE_CHECKING:
    from pathlib import Path

    from trace_engine.models import OpenModel
    from trace_engine.routing.shards import Say
    from trace_engine.sets import Documents

__all__ = [
    "ALONE",
    "CoExpert",
    "Context",
    "Drift",
    "ExpertCard",
    "Layout",
    "Mismatch",
    "Profile",
    "RoutingCounts",
    "TokenSample",
    "TopToken",
    "Workers",
    "activation_frequency",
    "coactivation",
    "contexts",
    "drift",
    "expert_card",
    "gap_kept",
    "gate_mass",
    "joined",
    "load_entropy",
    "load_mismatch",
    "load_share",
    "mismatch",
    "profile",
    "profile_in_parts",
    "profile_key",
    "same_style_gaps",
    "side_statistic",
    "top_tokens",
    "uniform_share",
]


# The function takes the place of the module of the same name as the package's attribute;
# `from trace_engine.routing.profile import ...` still finds the module.
def profile(
    opened: "OpenModel",
    forget: "Documents",
    retain: "Documents",
    config: ProfileConfig,
    report: ProgressCallback = ignore_progress,
) -> Profile:
    """Run both sets through the model's backbone and count every token's routing per document.

    Documents are cut at `config.max_length`; windows of up to 4,096 documents are sorted by length
    and batched, and no more of a set is held at once than a window. The integers depend on the
    batches only through rounding of near-ties in the routers. A side of more than 20,000 documents
    is counted per hashed block of documents. Progress is in tokens, one phase a side.
    The model is in eval mode meanwhile and as before afterwards. Raises InputError when a side has
    no token to count or a document id occurs twice, ModelError when a site routed nothing.
    """
    from trace_engine.routing.profiler import profile_model

    return profile_model(opened, forget, retain, config, report)


def profile_in_parts(
    opened: "OpenModel",
    forget: "Documents",
    retain: "Documents",
    config: ProfileConfig,
    work: "Path",
    workers: Workers = ALONE,
    report: ProgressCallback = ignore_progress,
    say: "Say | None" = None,
) -> Profile | None:
    """`profile`, bit for bit, with every finished window kept in the folder `work`.

    Interrupted or killed, the same call goes on after the finished windows; a damaged one is
    computed again, and `say` hears of it. With several `workers` (`joined`), each takes every N-th
    window and all must call this with one folder; the leading one returns the profile and removes
    the folder, the others return None. Raises what `profile` raises, and DiskFullError.
    """
    from trace_engine.routing.profiler import profile_in_parts as run
    from trace_engine.routing.shards import keep_quiet

    return run(opened, forget, retain, config, work, workers, report, say or keep_quiet)
