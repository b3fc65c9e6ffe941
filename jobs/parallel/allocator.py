"""Make malloc keep large blocks that are freed, for speed on CPUs.

By default glibc returns such blocks to the system at once. A training step on a CPU allocates and frees hundreds of MiB, and
the system must zero all these pages again in the next step. With the blocks kept, training takes 0.9 of the time
(tests/benchmarks/train.py malloc) and sampling of large batches 0.75; peak memory grows by up to a tenth.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """Keep freed blocks in this process from now on. Does nothing if malloc is not glibc's."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)  # no block gets a mapping of its own, which `free` would return to the system
        libc.mallopt(M_TRIM_THRESHOLD, -1)
