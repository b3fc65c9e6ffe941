"""Which library lets the ranks exchange tensors."""

import torch
import torch.distributed as dist

from jobs.parallel.devices import node_name


def backend_for(device: torch.device, rank: int, world_size: int, store: dist.Store) -> str:
    """Return the backend for torch.distributed: NCCL for GPUs if each rank has one of its own, else gloo. Every rank calls this.

    NCCL refuses ranks that share a GPU. Such ranks pay where a single process leaves the GPU idle.
    """
    if world_size > 1:
        store.set(f"device/{rank}", _name(device))
        names = [store.get(f"device/{other}").decode() for other in range(world_size)]
        if len({*names}) < world_size or any(name.endswith("cpu") for name in names):
            return "gloo"
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def _name(device: torch.device) -> str:
    """The same for two processes where they share a GPU."""
    if device.type != "cuda":
        return "cpu"
    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return f"{node_name()} {uuid or device.index}"
