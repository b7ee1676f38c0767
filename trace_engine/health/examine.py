"""The examination: checks of the surroundings, then torch, GPU and a self-test in a process of
their own, so that a broken build of torch is a line of the report and not its end."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from trace_engine.health.report import Check, Report
from trace_engine.health.surroundings import surroundings
from trace_engine.runs.detach import environment_of_children
from trace_engine.spelling import size

PROBE = [sys.executable, "-m", "trace_engine.health.probe"]
TIMEOUT_SECONDS = 180.0
"""Ten seconds are usual; a cold disk alone may take a minute to load torch."""
SLOW_SECONDS = 60.0


def doctor(
    home: Path | None = None,
    *,
    self_test: bool = True,
    on_check: Callable[[Check], object] = lambda check: None,
    timeout: float = TIMEOUT_SECONDS,
) -> Report:
    """Examine this machine and installation; `home` is the data folder (default: TRACE_HOME).

    The self-test profiles and trains a tiny random model in a temporary folder. `on_check` hears
    each check as it is made. Nothing is repaired or changed.
    """
    checks = []
    for check in _checks(home, self_test, timeout):
        checks.append(check)
        on_check(check)
    return Report(tuple(checks))


def _checks(home: Path | None, self_test: bool, timeout: float) -> Iterator[Check]:
    yield from surroundings(home)
    advice = "Install torch again (README, “Your own torch”)."
    try:
        with tempfile.TemporaryDirectory(
            prefix="trace-doctor-", ignore_cleanup_errors=True
        ) as folder:
            stages, trouble = _probe(Path(folder), self_test, timeout)
    except OSError as error:
        stages, trouble = {}, f"It was not tried: no temporary folder ({error.strerror})."
        advice = "See Temporary folder."
    found = stages.get("torch")
    if found is None:
        yield Check("Torch", "fault", trouble, advice)
        return
    cuda = f"built for CUDA {found['cuda']}" if found["cuda"] else "built for the CPU"
    threads = f"{found['threads']} thread{'' if found['threads'] == 1 else 's'}"
    yield Check("Torch", "ok", f"{found['version']}, {cuda}, {threads}.")
    yield gpu(found, has_nvidia=_has_nvidia())
    if self_test:
        yield tested(stages.get("self-test"), trouble)


def gpu(found: dict[str, Any], *, has_nvidia: bool) -> Check:
    """What torch can compute on besides the processors."""
    if found["gpus"]:
        each = [f"{g['name']}, {size(g['free'])} of {size(g['total'])} free" for g in found["gpus"]]
        return Check("GPU", "ok", f"{'; '.join(each)}.")
    if has_nvidia:
        text = "There is an NVIDIA GPU, and torch cannot use it."
        build = "its driver" if found["cuda"] else "a build of torch for CUDA"
        return Check("GPU", "warning", text, f"Install {build} (README, “Your own torch”).")
    return Check("GPU", "ok", "None; everything is computed on the CPU.")


def _has_nvidia() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()


def tested(found: dict[str, Any] | None, trouble: str) -> Check:
    """The self-test's outcome."""
    if found is None:
        advice = "If the lines above are ok, this is a fault of TRACE or of a package's version."
        return Check("Self-test", "fault", trouble, advice)
    text = (
        f"Profiled {found['tokens']:,} tokens and trained {found['steps']} steps of a tiny model "
        f"in {found['seconds']:.1f} s."
    )
    if found["seconds"] > SLOW_SECONDS:
        advice = "The machine is busy or slow: see Processors and Memory."
        return Check("Self-test", "warning", text, advice)
    return Check("Self-test", "ok", text)


def _probe(folder: Path, self_test: bool, timeout: float) -> tuple[dict[str, Any], str]:
    """What each stage of the probe said, and how it ended where it did not reach its end."""
    # Nothing is fetched: the model is made on the spot.
    environment = environment_of_children() | {"HF_HUB_OFFLINE": "1"}
    command = [*PROBE, str(folder), *([] if self_test else ["--look-only"])]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as late:
        return _stages(late.stdout or b""), f"It did not end within {timeout:.0f} s."
    except OSError as error:
        return {}, f"It could not be started ({error.strerror})."
    return _stages(done.stdout), _ending(done.returncode, done.stderr)


def _stages(output: bytes) -> dict[str, Any]:
    stages = {}
    for line in output.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue  # a package that prints
        if isinstance(said, dict) and "stage" in said:
            stages[said["stage"]] = said
    return stages


def _ending(code: int, errors: bytes) -> str:
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"It was ended by {name}."
    lines = errors.decode(errors="replace").strip().splitlines()
    return f"It failed: {lines[-1]}" if lines else f"It ended with exit code {code}."
