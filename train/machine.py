"""Matrix-product rate and peak memory of this machine."""

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
    """Return the FLOP/s that `devices` reach together in a large matrix product, as a practical peak to compare a step with.

    The best of the products that fit into `seconds` on one local device, times the number of devices; on CPU, where the devices
    of a process share its cores, times the number of processes."""
    on_cpu = devices[0].platform == "cpu"
    local = next(device for device in devices if device.process_index == jax.process_index())
    count = len({device.process_index for device in devices}) if on_cpu else len(devices)
    size = 1024 if on_cpu else 4096
    a = jax.device_put(jnp.ones((size, size), {"f32": jnp.float32, "bf16": jnp.bfloat16}[precision]), local)
    _product(a, a).block_until_ready()
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        _product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best * count


def peak_memory() -> tuple[float, str]:
    """Return (peak memory in GiB, "device" or "process"): of the first local device if known, else of this process."""
    stats: dict[str, Any] = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**30, "device"
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, "process"
