"""Training in several processes: torch's DistributedDataParallel under torchrun. Or in a single process."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from onebit.errors import OnebitError

Found = TypeVar("Found")


@dataclass(frozen=True)
class Ranks:
    """The rank of this process. Rank 0 writes files and prints. All ranks call the same methods in the same order.

    rank: 0 to world − 1; world: number of processes; local_rank: rank on this machine, which selects the GPU.
    store: shared by the processes, even before they connect; None for a single process.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    store: dist.Store | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """The samples of this rank in a batch of `count`; the ranks differ by at most one."""
        return slice(count * self.rank // self.world, count * (self.rank + 1) // self.world)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages gradients over all ranks; the model itself for a single process."""
        if self.world == 1:
            return model
        device = next(model.parameters()).device
        return nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def gradients(self, wrapped: nn.Module, *, averaged: bool) -> AbstractContextManager[None]:
        """A context for a forward and backward pass; without `averaged` a later pass averages the gradients."""
        if averaged or not isinstance(wrapped, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return wrapped.no_sync()

    def sum_(self, tensor: Tensor) -> Tensor:
        """`tensor`, summed over all ranks in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def same_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors` with those of rank 0."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def gather(self, value: Any) -> list[Any]:
        """The value of every rank, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        self.sum_(torch.zeros(()))

    def first(self, action: Callable[[], Found]) -> Found:
        """Call `action` on rank 0 only; all ranks return its result or raise its OnebitError."""
        if self.world == 1:
            return action()
        outcome: list[Any] = list(_attempt(action)) if self.rank == 0 else [None, None]
        dist.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]

    def in_turns(self, action: Callable[[], Found]) -> Found:
        """Call `action` on rank 0, then on the first rank of each other machine, then on the rest.

        So later ranks find the download of the first one in a cache. This may take hours.
        """
        if self.world == 1:
            return action()
        turn = 0 if self.rank == 0 else 1 if self.local_rank == 0 else 2
        found, error = None, None
        for now in range(3):
            if now == turn:
                found, error = _attempt(action)
            self._wait_long()
            for failed in self.gather(error):
                if failed is not None:
                    raise failed
        return found  # type: ignore[return-value]  # each rank has had its turn

    def is_first_to_report(self) -> bool:
        """Whether this rank is the first to ask, and so reports the error; True without a connection."""
        if self.store is None:
            return True
        try:
            return self.store.add("report", 1) == 1
        except RuntimeError:  # the process that hosts the store has ended
            return True

    def end(self) -> None:
        """After an error, let rank 0 end first: torchrun kills it as soon as another rank ends."""
        if self.store is None:
            return
        with suppress(RuntimeError):
            if self.writes:
                self.store.set("ended", "")
            else:
                self.store.wait(["ended"], timedelta(seconds=2))

    def _wait_long(self) -> None:
        """`wait` without the timeout of a collective; Ctrl-C interrupts it."""
        assert self.store is not None
        ticket = self.store.add("waiting", 1)
        all_here = -(-ticket // self.world) * self.world
        while self.store.add("waiting", 0) < all_here:
            time.sleep(0.02)


ALONE = Ranks()


def _attempt(action: Callable[[], Found]) -> tuple[Found | None, OnebitError | None]:
    try:
        return action(), None
    except OnebitError as error:
        return None, error


def launched_ranks() -> Ranks:
    """The rank of this process from the environment of torchrun; ALONE without torchrun."""
    if "WORLD_SIZE" not in os.environ or "RANK" not in os.environ:
        return ALONE
    return Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", "0")))


def meet(ranks: Ranks) -> Ranks:
    """Add the store that the processes share, without waiting for the other processes."""
    store, _, _ = next(dist.rendezvous("env://"))
    # torchrun keeps one store over all restarts: ignore the entries of stopped processes
    store = dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    return dataclasses.replace(ranks, store=store)


def join(ranks: Ranks) -> Ranks:
    """Connect the processes: gloo for CPU tensors and Python objects, nccl for GPU tensors."""
    if ranks.world == 1:
        return ranks
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    met = meet(ranks) if ranks.store is None else ranks
    # a second connection: this one may wait for a process that never starts, `is_first_to_report` must not
    clone = getattr(met.store, "clone", lambda: met.store)()  # torch 2.6 has no clone
    dist.init_process_group(backend, store=clone, rank=met.rank, world_size=met.world)
    return met


def leave(ranks: Ranks) -> None:
    """Disconnect the processes once all are here: one that still connects may need the others."""
    if ranks.world > 1:
        ranks.wait()
        dist.destroy_process_group()


def rank_device(device: torch.device, ranks: Ranks) -> torch.device:
    """The device of this process: the GPU of its local rank, unless `device` has an index."""
    if ranks.world == 1 or device.type != "cuda" or device.index is not None:
        return device
    gpu = torch.device("cuda", ranks.local_rank)
    torch.cuda.set_device(gpu)
    return gpu
