"""What a training step spends its time on, by torch's profiler; and how many operations it takes, by torch's counter."""

import os
import re

import torch
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from jobs.cost.bench.file import KINDS
from jobs.cost.bench.timing import Work, synchronize

# Names of torch's own operators; the first that fits decides. What autograd and DDP do between them is "other".
OPERATORS = (
    ("attention", r"aten::.*(scaled_dot_product|flash_attention|efficient_attention|softmax|bmm)"),
    ("convolution", r"aten::.*conv"),
    ("GEMM", r"aten::(mm|addmm|matmul|linear)$"),
    ("optimiser and EMA", r"aten::_fused_adam|aten::_foreach|Optimizer\.|aten::linalg_vector_norm|aten::.*unscale"),
    ("normalisation and elementwise", r"aten::"),
)


def kind_of(operator: str) -> str:
    """One of KINDS for the profiler's name of an operator."""
    return next((kind for kind, pattern in OPERATORS if re.match(pattern, operator)), "other")


def time_split(work: Work, steps: int, device: torch.device) -> dict[str, float]:
    """Share of the time of `steps` steps by kind: on a GPU of its kernels' time, else of the processor's."""
    on_gpu = device.type == "cuda"
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # it would tell the terminal of its own beginning and end
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])], acc_events=True) as profiler:
        for _ in range(steps):
            work()
        synchronize(device)
    times = dict.fromkeys(KINDS, 0.0)
    for event in profiler.key_averages():
        if event.device_type == DeviceType.CPU:  # a kernel's time is also its operator's
            times[kind_of(event.key)] += event.self_device_time_total if on_gpu else event.self_cpu_time_total
    total = sum(times.values())
    return {kind: time / total for kind, time in times.items()}


def counted_flops(work: Work) -> int:
    """Operations of one step as torch counts them. The fused attention of the CPU is unknown to it; the plain one is not."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
