"""Shares of a step's time by kind of operation, from torch's profiler; number of operations, from torch's counter."""

import os
import re

import torch
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from jobs.cost.bench.file import OPERATIONS
from jobs.cost.bench.timing import Work, synchronize

# Patterns of names of torch's own operators; the first that matches decides. All work of autograd and DDP is "other".
PATTERNS = (
    ("attention", r"aten::.*(scaled_dot_product|flash_attention|efficient_attention|softmax|bmm)"),
    ("convolution", r"aten::.*conv"),
    ("GEMM", r"aten::(mm|addmm|matmul|linear)$"),
    ("optimiser and EMA", r"aten::_fused_adam|aten::_foreach|Optimizer\.|aten::linalg_vector_norm|aten::.*unscale"),
    ("normalisation and elementwise", r"aten::"),
)


def operation_of(operator: str) -> str:
    """The entry of OPERATIONS for the profiler's name of an operator."""
    return next((kind for kind, pattern in PATTERNS if re.match(pattern, operator)), "other")


def time_split(work: Work, steps: int, device: torch.device) -> dict[str, float]:
    """Shares of the time of `steps` steps by entry of OPERATIONS: of the kernels' time on a GPU, else of the processor's time."""
    on_gpu = device.type == "cuda"
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler prints when it starts and ends
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])], acc_events=True) as profiler:
        for _ in range(steps):
            work()
        synchronize(device)
    times = dict.fromkeys(OPERATIONS, 0.0)
    for event in profiler.key_averages():
        if event.device_type == DeviceType.CPU:  # an operator's time includes the time of its kernels
            times[operation_of(event.key)] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    total = sum(times.values())
    return {kind: time / total for kind, time in times.items()}


def counted_flops(work: Work) -> int:
    """Operations of one step as torch counts them, with plain attention: torch cannot count the CPU's fused attention."""
    with sdpa_kernel(SDPBackend.MATH), Operations() as counted:
        work()
    return counted.flops


class Operations(TorchDispatchMode):
    """Counts operations by torch's own formulas. torch's FlopCounterMode has hooks on modules besides, which forbid gradients of
    gradients."""

    flops = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result)
        return result
