"""How the tests run jax. Set before it is imported, which is why it stands here.

Eight CPU devices, so that meshes can be tested on any machine. And the tests compile far more than they compute: machine code
that was quick to make is what makes them fast, and what one test has compiled, others and the next session take from the cache.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from data import cache

flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
WITHOUT = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
USERS = {**WITHOUT, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONWARNINGS": "error"}
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache.directory() / "compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores, since many tests wait for processes that they have started."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(scope="session")
def front_door() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `python -m train …` in a folder, as a user does: in a process of its own, with one device or so many, by itself or
    `under` a command that starts it."""

    def start(*arguments: object, cwd: Path, devices: int = 1, under: Sequence[object] = ()) -> subprocess.Popen:
        command = [*map(str, under), sys.executable, "-m", "train", *map(str, arguments)]
        environment = USERS if devices == 1 else {**USERS, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        process = subprocess.Popen(
            command, env=environment, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    started: list[subprocess.Popen] = []
    yield start
    for process in started:  # of a test that failed
        if process.poll() is None:
            process.kill()
            process.communicate()
