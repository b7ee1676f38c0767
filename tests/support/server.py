"""A real server and a real browser, for journeys and for timing the app as a user meets it.

The server gets its own data directory and a free port, and is polled at its health address; nothing
sleeps for a guessed time. Chromium is the machine's own, never a download.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).parents[2]
HOST = "lab.example.org"
"""What the outside calls a team's server; the browser looks for it on this machine."""
CHROMIUM_ARGUMENTS = [
    "--disable-background-networking",
    "--disable-component-update",
    f"--host-resolver-rules=MAP {HOST} 127.0.0.1",
]


CELL_SCRIPT = """([x, y]) => {
  const plot = document.querySelector('.js-plotly-plot');
  plot.scrollIntoView({block: 'center'});
  const box = plot.getBoundingClientRect(), {xaxis, yaxis} = plot._fullLayout;
  return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
}"""
"""Where on the screen the first map of a page has the cell (x, y)."""


def find_chromium() -> str | None:
    """Debian's or the machine's Chromium; None where there is none."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    address: str
    pid: int
    log: Path


@contextmanager
def serve(
    home: Path, *, script: Path | None = None, log: Path | None = None, deadline: float = 60.0
) -> Iterator[str]:
    """`server`, where only its address is of interest."""
    with server(home, script=script, log=log, deadline=deadline) as found:
        yield found.address


@contextmanager
def server(
    home: Path,
    *,
    script: Path | None = None,
    log: Path | None = None,
    deadline: float = 60.0,
    port: int | None = None,
    base_path: str = "",
    options: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """The app (or `script`) on a free local port (or `port`), its data under `home`; Streamlit's
    further `options`, and variables that its environment has besides.

    Raises RuntimeError with the end of the server's output when it dies or is not healthy in time.
    """
    port = port or free_port()
    log = log or home / "server.log"
    command = [sys.executable, "-m", "streamlit", "run", str(script or "streamlit_app.py")]
    command += ["--server.headless", "true", "--server.port", str(port), *options]
    if base_path:
        command += ["--server.baseUrlPath", base_path]
    variables = os.environ | {"TRACE_HOME": str(home)} | dict(environment or {})
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        base = f"http://127.0.0.1:{port}" + (f"/{base_path}" if base_path else "")
        _wait_until_healthy(process, f"{base}/_stcore/health", log, deadline)
        yield Server(base.replace("127.0.0.1", "localhost"), process.pid, log)
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_until_healthy(
    process: subprocess.Popen[bytes], address: str, log: Path, deadline: float
) -> None:
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:  # refused, reset, or not answered in time
            time.sleep(0.05)  # between two polls, not a guess at how long the start takes
    tail = log.read_text(errors="replace")[-2000:]
    raise RuntimeError(f"The server did not become healthy in {deadline:.0f} s:\n{tail}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium; without a sandbox only where the user is root."""
    arguments = [*CHROMIUM_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()
