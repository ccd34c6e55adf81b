"""Settings of the C allocator for XLA on CPU."""

import ctypes
import os

# Parameters of mallopt in glibc's malloc.h, and their values: one arena, no mmap, no trimming.
ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD = (-8, 1), (-4, 0), (-1, 2**31 - 1)


def keep_freed_memory() -> None:
    """Make glibc's malloc keep freed memory in the process. Call it before another thread starts.

    XLA on CPU allocates the buffers of each step with malloc and frees them after it. By default glibc returns large ones to the
    system, so that each step pays for all their pages anew. Does nothing with another C library, or if the environment has
    FMODELS_MALLOC=default."""
    if "CS_GNU_LIBC_VERSION" not in os.confstr_names or os.environ.get("FMODELS_MALLOC") == "default":
        return
    libc = ctypes.CDLL(None)
    for parameter, value in (ARENA_MAX, MMAP_MAX, TRIM_THRESHOLD):
        libc.mallopt(parameter, value)
