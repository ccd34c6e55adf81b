"""What this machine can do, and what of its memory was used."""

import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp


@jax.jit
def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return a @ b


def matrix_rate(precision: str, devices: list[Any], seconds: float = 0.3) -> float:
    """FLOP/s of a large matrix product on all the devices: the best of as many as fit into `seconds` on the first of this
    process, times their number, and on CPU, where the devices of a process share its cores, times that of the processes. What a
    step reaches of it is its share of what the hardware can really do."""
    on_cpu = devices[0].platform == "cpu"
    mine = next(device for device in devices if device.process_index == jax.process_index())
    times = len({device.process_index for device in devices}) if on_cpu else len(devices)
    size = 1024 if on_cpu else 4096
    a = jax.device_put(jnp.ones((size, size), {"f32": jnp.float32, "bf16": jnp.bfloat16}[precision]), mine)
    _product(a, a).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        _product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best * times


def peak_memory() -> tuple[float, str]:
    """(GiB at the most so far, of what): of the first device where it counts them, else of this process."""
    stats: dict[str, Any] = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**30, "device"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, "process"
