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


def test_a_first_start_on_a_desktop_asks_nothing_listens_and_opens_the_browser(
    tmp_path: Path,
) -> None:
    port = free_port()
    terminal, inside = pty.openpty()
    asked = tmp_path / "asked"
    opener = tmp_path / "bin" / "xdg-open"
    opener.parent.mkdir()
    opener.write_text(f'#!/bin/sh\necho "$1" > "{asked}.part" && mv "{asked}.part" "{asked}"\n')
    opener.chmod(0o755)
    desktop = {"HOME": str(tmp_path), "DISPLAY": ":0", "BROWSER": "true"}
    desktop["PATH"] = f"{opener.parent}:{os.environ['PATH']}"
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
        while not asked.exists():
            assert time.monotonic() < end, "the browser was not opened"
            time.sleep(0.1)
        assert asked.read_text() == f"http://localhost:{port}\n"
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
        os.close(inside)
