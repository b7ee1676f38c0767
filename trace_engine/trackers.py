"""Which trackers can mirror a run, and whether their packages are here.

Apart from the mirroring itself (`unlearning.mirror`), so that pages and launchers know without
torch. Nothing is sent anywhere unless a run's settings name a tracker.
"""

from collections.abc import Iterable
from importlib.util import find_spec

from trace_engine.config import TrackerName
from trace_engine.errors import InputError

TRACKERS: dict[TrackerName, str] = {
    "tensorboard": "TensorBoard: files in the run's folder",
    "wandb": "Weights & Biases: sent to its server",
    "mlflow": "MLflow: to its MLFLOW_TRACKING_URI",
    "trackio": "Trackio: a database on this machine",
}


def installed(name: TrackerName) -> bool:
    """Whether the tracker's package can be imported; nothing is."""
    found = find_spec(name)
    # A folder of that name beside us, such as a tracker leaves, is no package.
    return found is not None and found.origin is not None


def check_trackers(names: Iterable[TrackerName]) -> None:
    """Raise InputError, with what to install, for a tracker whose package is not here."""
    for name in names:
        if not installed(name):
            extra = "'trace-moe[trackers]'" if name == "tensorboard" else name
            raise InputError(
                f"trackers names {name}, and its package is not installed. Run `pip install "
                f"{extra}`, or leave it out of trackers. Nothing was started."
            )
