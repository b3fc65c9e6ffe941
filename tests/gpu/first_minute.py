"""The first lines of `make gpu`: what the machine is, and whether it computes. Exit status 1 where something is missing."""

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "triton", "numpy", "h5py", "pydantic", "submitit", "tensorboard", "pytest")


def installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "MISSING"


def main() -> int:
    """Print a few lines, each as soon as its answer is known."""
    began = time.monotonic()
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores, {platform.platform()}", flush=True)
    versions = {name: installed(name) for name in PACKAGES}
    print(", ".join(f"{name} {found}" for name, found in versions.items()), flush=True)
    try:
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,memory.used,clocks.sm", "--format=csv,noheader"]
        print(subprocess.run(query, capture_output=True, text=True, timeout=20).stdout.strip(), flush=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"nvidia-smi: {error}", flush=True)
    if "MISSING" in versions.values():
        print("packages are missing: see `make wheelhouse`", file=sys.stderr)
        return 1
    import torch
    if not torch.cuda.is_available():
        print("torch sees no GPU", file=sys.stderr)
        return 1
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        print(f"cuda:{index}: {properties.name}, {properties.multi_processor_count} multiprocessors, capability "
              f"{properties.major}.{properties.minor}, {properties.total_memory / 2 ** 30:.0f} GiB", flush=True)
    print(f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, NCCL {torch.cuda.nccl.version()}", flush=True)
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(20):
        left @ right
    torch.cuda.synchronize()
    rate = 20 * 2 * 8192 ** 3 / (time.perf_counter() - start)
    print(f"a product of 8192 x 8192 in bf16: {rate / 1e12:.0f} TFLOP/s; {time.monotonic() - began:.0f} s so far", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
