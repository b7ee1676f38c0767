"""The front end's shared parts: navigation, state and URL, charts, tables, wording.

Pages only wire these to the engine. Nothing here imports torch or opens a model, so that the first
page is on screen in seconds and the app's memory does not depend on anyone's model.
"""

import os

from trace_engine.threads import one_thread

with one_thread(os.environ):
    import numpy  # noqa: F401
