"""Starting a process that outlives its starter and holds a lock from its first moment.

The open lock file is handed over by `exec`, so there is no gap in which the work looks abandoned.
It accepts that output goes to a file: nobody is there to read it.
"""

import os
import subprocess
from pathlib import Path

import trace_engine
from trace_engine.disk import open_own
from trace_engine.runs.lock import FileLock
from trace_engine.threads import wait_briefly

_children: list[subprocess.Popen[bytes]] = []


def environment_of_children() -> dict[str, str]:
    """What a process of ours is started with: this package, and nothing from where it works.

    An imported run names the folder its worker starts in, and whatever lies there must not become
    code. Relative paths of PYTHONPATH mean what they mean here.
    """
    package = str(Path(trace_engine.__file__).parent.parent)
    asked = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    paths = [package, *(os.path.abspath(path) for path in asked if path)]
    environment = {
        # A progress bar in a log file is a thousand copies of one line.
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",
    }
    wait_briefly(environment)
    return environment


def start_detached(command: list[str], lock: FileLock, log: Path, folder: Path) -> None:
    """Start `command --lock N` in `folder`, in a session of its own; it inherits the lock.

    Raises OSError when no process starts, LinkedFileError when the log is a link; the lock is then
    still the caller's.
    """
    # Ended workers of this process are collected here; they would stay zombies until it ends.
    _children[:] = [child for child in _children if child.poll() is None]
    with open(open_own(log, os.O_WRONLY | os.O_APPEND), "ab") as output:
        _children.append(
            subprocess.Popen(
                [*command, "--lock", str(lock.descriptor)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=environment_of_children(),
                pass_fds=(lock.descriptor,),
                start_new_session=True,
            )
        )
    lock.disown()
