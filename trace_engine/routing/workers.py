"""Several processes that share one profile: who does which window, and where they wait.

`torchrun` starts them and says who is who; results meet as files, so nothing but a barrier and one
agreed flag goes over the wire. Accepted cost: all processes must see one file system.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

from trace_engine.errors import InputError

PATIENCE = timedelta(days=7)
"""How long a process waits for the slowest: a window may take long, and a dead peer is noticed by
its connection, not by the clock."""


@dataclass(frozen=True, slots=True)
class Workers:
    """This process among all that share the work."""

    rank: int = 0
    size: int = 1

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

            dist.barrier()

    def agree(self, flag: bool) -> bool:
        """What the leading process says, in all of them."""
        if self.size == 1:
            return flag
        import torch
        import torch.distributed as dist

        told = torch.tensor([int(flag)])
        dist.broadcast(told, src=0)
        return bool(told.item())


ALONE = Workers()


@contextmanager
def joined() -> Iterator[Workers]:
    """The processes that `torchrun` started, for the duration; one alone where it did not.

    Each takes the GPU of its local rank where there are GPUs. Raises InputError when the number of
    processes that met is not the number that was asked for.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    import torch
    import torch.distributed as dist

    rank = int(os.environ["RANK"])
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)) % torch.cuda.device_count())
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        found = dist.get_world_size()
        if found != size or dist.get_rank() != rank:
            raise InputError(
                f"Expected {size} processes, found {found}. Start them with torchrun "
                "--nproc_per_node N; nothing was profiled."
            )
        yield Workers(rank, size)
    finally:
        dist.destroy_process_group()
