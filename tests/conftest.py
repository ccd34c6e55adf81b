"""JAX settings for the tests; they must be set before JAX is imported.

Tests run on eight CPU devices, so that meshes can be tested on any machine. Tests compile much more than they compute, so they
turn off XLA's optimizations and share compiled programs through a persistent cache.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import hypothesis
import pytest

from data import cache

flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
NO_XLA_FLAGS = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
ENV = {**NO_XLA_FLAGS, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONWARNINGS": "error"}
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache.directory() / "compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


hypothesis.settings.register_profile("no deadline", deadline=None)  # a loaded machine is slow
hypothesis.settings.load_profile("no deadline")


def pytest_xdist_auto_num_workers() -> int:
    """Return one more worker than cores, since many tests wait for processes that they start."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def front_door() -> Iterator[Callable[..., subprocess.Popen]]:
    """Return a function that starts `python -m train …` in a folder, as a user does: in a separate process with `devices`
    devices, optionally `under` a launcher command."""

    def start(*arguments: object, cwd: Path, devices: int = 1, under: Sequence[object] = ()) -> subprocess.Popen:
        command = [*map(str, under), sys.executable, "-m", "train", *map(str, arguments)]
        environment = ENV if devices == 1 else {**ENV, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        process = subprocess.Popen(
            command, env=environment, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    started: list[subprocess.Popen] = []
    yield start
    for process in started:  # left over from a failed test
        if process.poll() is None:
            process.kill()
            process.communicate()
