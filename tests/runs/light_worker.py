"""A worker whose job is to wait for a file: real process, lock, queue and signals, and no torch to
import."""

import sys
import time
from pathlib import Path

from trace_engine.config import ProfileConfig, SetConfig, UnlearnConfig
from trace_engine.progress import Progress, ProgressCallback
from trace_engine.runs.directory import RunDirectory
from trace_engine.runs.stopping import StopFlag
from trace_engine.runs.worker import main

COMMAND = [sys.executable, "-m", "tests.runs.light_worker"]


def config(folder: Path, seed: int = 0, **changes: object) -> UnlearnConfig:
    return UnlearnConfig(
        forget=SetConfig(source=str(folder / "forget.txt")),
        retain=SetConfig(source=str(folder / "retain.txt")),
        seed=seed,
        **changes,  # type: ignore[arg-type]
    )


def profile_config(folder: Path) -> ProfileConfig:
    return config(folder).profile_config()


def job(run: RunDirectory, stop: StopFlag, report: ProgressCallback, base: Path | None) -> str:
    """Compute until `release` appears in the home; keep a trace of who computed beside whom. Once
    there is `grow`, take more and more memory."""
    assert base is not None
    computing = base / "computing"
    computing.mkdir(exist_ok=True)
    own = computing / run.id
    own.touch()
    try:
        with (base / "most_at_once").open("a") as file:
            file.write(f"{len(list(computing.iterdir()))}\n")
        with (base / "order").open("a") as file:
            file.write(f"{run.id}\n")
        report(Progress("waiting", 1, 2, "steps", None, None))
        taken = []
        while not ((base / "release").exists() or (base / f"release-{run.id}").exists()):
            stop.check()
            if (base / "grow").exists():
                taken.append(bytearray(2**20))
            else:
                time.sleep(0.005)
    finally:
        own.unlink()
    return "Released."


if __name__ == "__main__":
    sys.exit(main(job=job))
