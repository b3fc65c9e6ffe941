"""What malloc does with large blocks that are freed: keep them.

By default glibc gives them back to the system at once. A step on a CPU allocates hundreds of MiB and frees them again, and
the next has all their pages faulted in and zeroed anew. Kept, training takes 0.9 of the time (tests/benchmarks/train.py malloc)
and sampling of large batches 0.75, for up to a tenth more memory at its most.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> None:
    """From now on in this process; nothing happens where malloc is not glibc's."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_MAX, 0)  # no block in a mapping of its own, which freeing it would remove
        libc.mallopt(M_TRIM_THRESHOLD, -1)
