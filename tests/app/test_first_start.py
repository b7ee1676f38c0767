"""The first start on somebody's desktop: a terminal, a display, and a home that Streamlit has never
seen. There it would ask for an e-mail address and never listen.
"""

import os
import pty
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.support.server import ROOT, free_port


def test_a_first_start_on_a_desktop_asks_nothing_and_listens(tmp_path: Path) -> None:
    port = free_port()
    terminal, inside = pty.openpty()
    desktop = {"HOME": str(tmp_path), "DISPLAY": ":0", "BROWSER": "true"}
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", "streamlit_app.py", f"--server.port={port}"],
        stdin=inside,
        stdout=inside,
        stderr=inside,
        cwd=ROOT,
        env=os.environ | desktop,
    )
    try:
        end = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5):
                    break
            except (urllib.error.URLError, ConnectionError):
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < end, os.read(terminal, 4096).decode(errors="replace")
                time.sleep(0.1)  # between two polls, not a guess at how long the start takes
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(inside)
