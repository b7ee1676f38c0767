"""Several processes that share one job: who does what, where they wait, and what they agree on.

`torchrun` starts them and says who is who. A profile's results meet as files, so little more than a
barrier goes over the wire; a run's processes sum numbers in every step. When one refuses, all end
with it and one of them says why. Accepted cost: all processes must see one file system, a refusing
one waits a moment for the others, and one that waits for a sum notices a refusal by the connection.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from trace_engine.errors import AlreadySaidError, InputError, RunError, TraceError

if TYPE_CHECKING:
    from torch import Tensor

PATIENCE = timedelta(days=7)
"""How long a process waits for the slowest: a window may take long, and a dead peer is noticed by
its connection, not by the clock."""
_GRACE_SECONDS = 5.0
"""How long a refusing process waits for the others to refuse too: they look this often at least."""
_LOOK_SECONDS = 0.05
_GONE = (
    "Another process of this job ended without a word, so this one ends too. What is finished is "
    "kept: start the same command again, or resume the run, to go on."
)


@dataclass(frozen=True, slots=True)
class Workers:
    """This process among all that share the work."""

    rank: int = 0
    size: int = 1
    _store: Any = field(default=None, repr=False, compare=False)
    """What all processes read and write: who refuses, and who has said why."""

    @property
    def leads(self) -> bool:
        """Whether this process puts the result together."""
        return self.rank == 0

    def does(self, window: int) -> bool:
        """Whether a window is this process's: every N-th one."""
        return window % self.size == self.rank

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            import torch.distributed as dist

            self._finish(dist.barrier(async_op=True))

    def agree(self, flag: bool) -> bool:
        """What the leading process says, in all of them."""
        if self.size == 1:
            return flag
        import torch
        import torch.distributed as dist

        told = torch.tensor([int(flag)])
        self._finish(dist.broadcast(told, src=0, async_op=True))
        return bool(told.item())

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process, in all of them."""
        if self.size == 1:
            return flag
        import torch

        raised = torch.tensor([int(flag)])
        self.largest(raised)
        return bool(raised.item())

    def share(self, compute: Callable[[], Any]) -> Any:
        """The JSON value that the leading process computes, in all of them; floats keep their
        bits."""
        if self.size == 1:
            return compute()
        import torch
        import torch.distributed as dist

        text = json.dumps(compute(), allow_nan=False).encode() if self.leads else b""
        size = torch.tensor([len(text)])
        self._finish(dist.broadcast(size, src=0, async_op=True))
        told = torch.zeros(int(size), dtype=torch.uint8)
        if self.leads:
            told = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self._finish(dist.broadcast(told, src=0, async_op=True))
        return json.loads(bytes(told.tolist()))

    def sum(self, values: "Tensor") -> None:
        """Replace a CPU tensor by its sum over all processes, the same bits in each."""
        import torch.distributed as dist

        self._pass(lambda: dist.all_reduce(values))

    def largest(self, values: "Tensor") -> None:
        """Replace a CPU tensor by its largest values over all processes."""
        import torch.distributed as dist

        self._pass(lambda: dist.all_reduce(values, op=dist.ReduceOp.MAX))

    def gather(self, values: "Tensor") -> "list[Tensor]":
        """The CPU tensors of all processes, which have one shape, in order of rank."""
        import torch
        import torch.distributed as dist

        found = [torch.empty_like(values) for _ in range(self.size)]
        self._pass(lambda: dist.all_gather(found, values))
        return found

    def reason(self) -> str:
        """What the lowest process that refuses has said; a sentence without it where none has."""
        try:
            for rank in range(self.size):
                if self._store.check([f"refused/{rank}"]):
                    return str(self._store.get(f"refused/{rank}").decode())
        except RuntimeError:
            pass
        return _GONE

    def refuse(self, error: TraceError) -> TraceError:
        """What this process raises when it cannot go on: the error, or that another says why.

        The lowest process that refuses speaks, once the others have ended likewise or a moment has
        passed.
        """
        if self.size == 1:
            return error
        if threading.current_thread() is threading.main_thread():
            # The launcher ends the others as soon as one has ended; each may end by itself.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            return self._spoken_by_one(error)
        except RuntimeError:  # whoever held the store is gone
            return error

    def leave(self) -> None:
        """Let the others end, silently, at the next thing they wait for."""
        if self.size > 1:
            with suppress(RuntimeError):  # whoever held the store is gone
                self._store.add("ending", 1)

    def _spoken_by_one(self, error: TraceError) -> TraceError:
        silent: TraceError = AlreadySaidError()
        if not isinstance(error, AlreadySaidError):
            self._store.set(f"refused/{self.rank}", str(error))
        self._store.add("ending", 1)
        self._until_all("ending")
        speakers = [n for n in range(self.size) if self._store.check([f"refused/{n}"])]
        speaks = self.rank == speakers[0] and self._store.add("said", 1) == 1
        self._store.add("decided", 1)
        if self.leads:
            self._until_all("decided")  # the store may be this process's
        return error if speaks else silent

    def _until_all(self, step: str) -> None:
        until = time.monotonic() + _GRACE_SECONDS
        while self._store.add(step, 0) < self.size and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)

    def _finish(self, work: Any) -> None:
        """Wait for the others, unless one of them refuses meanwhile."""
        try:
            while not work.is_completed():
                if self._store.add("ending", 0):
                    raise AlreadySaidError
                time.sleep(_LOOK_SECONDS)
            work.wait()
        except RuntimeError:
            raise RunError(_GONE) from None

    def _pass(self, exchange: Callable[[], Any]) -> None:
        """Exchange numbers, blocking: many times a step, so without looking around meanwhile."""
        try:
            exchange()
        except RuntimeError:
            # Whoever refuses leaves, and its connection with it.
            if self._one_refuses():
                raise AlreadySaidError from None
            raise RunError(_GONE) from None

    def _one_refuses(self) -> bool:
        try:
            return bool(self._store.add("ending", 0))
        except RuntimeError:  # whoever held the store is gone
            return False


ALONE = Workers()


@contextmanager
def joined() -> Iterator[Workers]:
    """The processes that `torchrun` started, for the duration; one alone where it did not.

    Each takes the GPU of its local rank where there are GPUs. What one refuses ends all of them,
    and one says it (see `Workers.refuse`). Raises InputError when they cannot meet, or the number
    that met is not the number that was asked for.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed

    dist: Any = torch.distributed  # its types leave out half of its public names
    rank = int(os.environ["RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, size))
        dist.init_process_group(
            "gloo",
            store=dist.PrefixStore("gloo", store),
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"The {size} processes could not meet ({str(error).splitlines()[0]}). Start them with "
            "torchrun --nproc_per_node N; nothing was profiled."
        ) from None
    workers = Workers(rank, size, store)
    try:
        found = dist.get_world_size()
        if found != size or dist.get_rank() != rank:
            raise InputError(
                f"Expected {size} processes, found {found}. Start them with torchrun "
                "--nproc_per_node N; nothing was profiled."
            )
        yield workers
    except TraceError as error:
        raise workers.refuse(error) from None
    finally:
        dist.destroy_process_group()
