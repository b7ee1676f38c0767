"""The first visitor does not wait for imports: the server makes them while it starts."""

import json
import subprocess
import sys

from tests.support.server import ROOT

SERVED = """
import asyncio, json, sys, threading
from streamlit import config
from app import serving

config.set_option("server.headless", True)

async def serve():
    async with serving.opened(None):
        for thread in threading.enumerate():
            if thread.name == "imports":
                await asyncio.to_thread(thread.join)

asyncio.run(serve())
print(json.dumps(sorted(sys.modules)))
"""


def test_a_server_that_nobody_asked_yet_has_what_pages_import_and_no_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SERVED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = set(json.loads(done.stdout))
    shared = {f"app.{path.stem}" for path in (ROOT / "app").glob("*.py")} - {"app.__init__"}
    assert shared <= modules
    assert {"pandas", "plotly.graph_objects"} <= modules
    assert not modules & {"torch", "transformers"}
