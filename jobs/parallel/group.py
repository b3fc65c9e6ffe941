"""Join the processes of a stage into one group, and exchange values between them."""

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from jobs.errors import StageFailed, UserError
from jobs.parallel.allocator import keep_freed_memory
from jobs.parallel.backend import backend_for
from jobs.parallel.devices import VISIBLE, gpu_index, own_slice
from jobs.parallel.launchers import under_torchrun
from jobs.parallel.life import meet, signs_of_life
from jobs.parallel.precision import exact_products
from jobs.storage.files import write_text

SIOCGIFADDR = 0x8915  # linux/sockios.h
MEETING_TIMEOUT, POLL_S = timedelta(minutes=10), 0.05
# Longer than ranks ever wait for each other, for example while one saves a checkpoint to a slow disk.
COLLECTIVE_TIMEOUT = timedelta(minutes=60)


@dataclass(frozen=True)
class Group:
    """This rank of one stage. While it is open, collectives of torch.distributed work; all ranks share `store`."""

    rank: int
    world_size: int
    device: torch.device
    store: dist.Store

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """"cpu" or a GPU's name."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"


@dataclass(frozen=True)
class RankInfo:
    """Position of this process among the processes that a launcher started."""

    rank: int
    world_size: int
    local_rank: int


def rank_info() -> RankInfo:
    """Read this process's rank from the launcher's environment variables; without a launcher the process is alone."""
    names = [("SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS", "SUBMITIT_LOCAL_LOCALID")]
    if os.environ.get("SUBMITIT_EXECUTOR") == "slurm":  # not enough to look for SLURM's: a shell in an allocation has them too
        names.insert(0, ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
    if under_torchrun(os.environ):
        names.insert(0, ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    for keys in names:
        if all(key in os.environ for key in keys):
            return RankInfo(*(int(os.environ[key]) for key in keys))
    return RankInfo(0, 1, 0)


def _own_address() -> str:
    """The address at which the other nodes of the job reach this machine. Its host name may resolve to another one."""
    launcher = os.environ.get("SLURM_LAUNCH_NODE_IPADDR")
    if launcher is None or os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((launcher, 9))  # sends nothing, only chooses the route
        return probe.getsockname()[0]


def _interface_of(address: str) -> str | None:
    """Name of the network interface that has this IPv4 address, None if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                if socket.inet_ntoa(fcntl.ioctl(probe, SIOCGIFADDR, request)[20:24]) == address:
                    return name
            except OSError:  # an interface without an address
                continue
    return None


def choose_device(gpu: bool, local_rank: int) -> torch.device:
    """Return the device of a rank: its GPU if `gpu` is wanted and CUDA shows one, else the CPU."""
    if not gpu:
        return torch.device("cpu")
    if own := own_slice(os.environ, local_rank):
        os.environ[VISIBLE] = own  # before torch asks CUDA for the first time
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", gpu_index(os.environ, torch.cuda.device_count(), local_rank))


@contextmanager
def process_group(meeting: Path, threads: int, gpu: bool = True, ranks: int | None = None) -> Iterator[Group]:
    """Join the other ranks of this stage while the block lasts: the first `ranks` of those that the launcher started, or all.

    `meeting` is a path that all ranks see and no other group uses. Rank 0 writes its address to that file; under torchrun
    the launcher's address is used instead. `threads` is the number of CPU threads of this process. `gpu`: compute on a GPU
    where there is one, whichever launcher started the ranks. Without a GPU, the process keeps the memory that it frees (see
    jobs.parallel.allocator). Products of float32 numbers are exact (see jobs.parallel.precision). Raises StageFailed if not all
    ranks come.
    """
    here = rank_info()
    here = replace(here, world_size=ranks or here.world_size)
    torch.set_num_threads(threads)
    device = choose_device(gpu, here.local_rank)
    exact_products()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    # Name the network interface to gloo. Otherwise gloo looks up the host's name, and the lookup may fail.
    torchrun = under_torchrun(os.environ)
    if not torchrun or os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        interface = _interface_of(_own_address())
        if interface:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)

    store = _of_torchrun(here) if torchrun else _meet(here, meeting)
    if not torchrun:
        _wait_for_all(store, here)
    backend = backend_for(device, here.rank, here.world_size, store)
    dist.init_process_group(backend, store=store, rank=here.rank, world_size=here.world_size, timeout=COLLECTIVE_TIMEOUT)
    if here.rank == 0:
        meeting.unlink(missing_ok=True)  # all ranks have joined
    try:
        with signs_of_life(_default_store(), here.rank, here.world_size):
            yield Group(here.rank, here.world_size, device, _default_store())
    finally:
        dist.destroy_process_group()


def _default_store() -> dist.Store:
    """The store of the process group, under torchrun too. torch 2.6 to 2.13 have no public function for it."""
    return dist.distributed_c10d._get_default_store()


def _of_torchrun(rank: RankInfo) -> dist.Store:
    """Open the store that torchrun's variables name, and wait there until every rank has come."""
    store, _, _ = next(dist.rendezvous("env://", rank.rank, rank.world_size, timeout=MEETING_TIMEOUT))
    return dist.PrefixStore("iddpm", store)  # the agents of torchrun keep their own keys there


def _meet(rank: RankInfo, meeting: Path) -> dist.Store:
    """Open the store that all ranks share. Rank 0 serves it on a port that the system chooses, so the port is free."""
    if rank.world_size == 1:
        return dist.HashStore()
    if rank.rank == 0:
        address = _own_address()
        store = dist.TCPStore(address, 0, rank.world_size, is_master=True, wait_for_workers=False, timeout=MEETING_TIMEOUT)
        write_text(meeting, f"{address} {store.port}")
        return store
    deadline = time.monotonic() + MEETING_TIMEOUT.total_seconds()
    while not meeting.exists():
        if time.monotonic() > deadline:
            raise StageFailed(f"rank 0 did not come to {meeting} within {MEETING_TIMEOUT}", kind="node or network")
        time.sleep(POLL_S)
    address, port = meeting.read_text().split()
    return dist.TCPStore(address, int(port), rank.world_size, is_master=False, timeout=MEETING_TIMEOUT)


def _wait_for_all(store: dist.Store, rank: RankInfo) -> None:
    """Wait until every rank has come to `store`. Raises StageFailed that names those which do not.

    torch would wait for them as long as for a collective. A launcher that sees a rank die ends the others in the meantime.
    """
    places = [f"arrived/{number}" for number in range(rank.world_size)]
    store.set(places[rank.rank], os.uname().nodename)
    deadline = time.monotonic() + MEETING_TIMEOUT.total_seconds()
    while not store.check(places):
        if time.monotonic() > deadline:
            missing = [str(number) for number, place in enumerate(places) if not store.check([place])]
            raise StageFailed(f"{'ranks' if len(missing) > 1 else 'rank'} {', '.join(missing)} did not come within "
                              f"{MEETING_TIMEOUT}", kind="node or network")
        time.sleep(POLL_S)


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate the `rows` [n_r, ...] of all ranks, in the order of ranks, on every rank. The n_r may differ."""
    if dist.get_world_size() == 1:
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    sizes = [int(count) for count in counts]
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[:len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])


def from_main(value: Any) -> Any:
    """Return rank 0's `value` on every rank. The value must pickle. All ranks wait for each other, as `meet` does."""
    meet()
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def on_main(work: Callable[[], Any]) -> Any:
    """Run `work` on rank 0 alone, and return its result on every rank. Its UserError or StageFailed is raised on every rank."""
    outcome: Any = None
    if dist.get_rank() == 0:
        try:
            outcome = work()
        except (UserError, StageFailed) as error:
            outcome = error
    outcome = from_main(outcome)
    if isinstance(outcome, (UserError, StageFailed)):
        raise outcome
    return outcome


def any_rank(flag: bool) -> bool:
    """Whether `flag` is true on any rank. All ranks wait for each other, as `meet` does."""
    return any(from_ranks(flag))


def from_ranks(value: Any) -> list:
    """Return the `value` of every rank, in the order of ranks, on every rank. The values must pickle. All ranks wait
    for each other, as `meet` does."""
    meet()
    box: list = [None] * dist.get_world_size()
    dist.all_gather_object(box, value)
    return box
