"""What this machine can do, and what of its memory was used."""

import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp


def matrix_rate(precision: str, seconds: float = 0.3) -> float:
    """FLOP/s of a large matrix product on one device: the best of as many as fit into `seconds`. What a step reaches of it is its
    share of what the machine can really do."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    dtype = {"f32": jnp.float32, "bf16": jnp.bfloat16}[precision]
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: a @ b)
    product(a, a).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def peak_memory() -> tuple[float, str]:
    """(GiB at the most so far, of what): of the first device where it counts them, else of this process."""
    stats: dict[str, Any] = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**30, "device"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, "process"
