"""Short runs of one process or several on this machine."""

import functools
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.train.experiments import short
from tests.train.processes import SHAPES, SHORT, finish, free_port
from train import loop

Start = Callable[..., list[subprocess.Popen]]


@pytest.fixture(scope="session")
def start(front_door) -> Start:
    """Return a function that starts the processes of a short run in a folder, each with `devices` devices."""

    def start(
        folder: Path,
        processes: int,
        *options: str,
        hidden: int = 64,
        devices: int = 1,
        under: Sequence[object] = (),
        **settings: int,
    ) -> list[subprocess.Popen]:
        run = {"dir": folder, **SHORT, **settings}
        arguments = ["run", "digits-mlp", f"--model.hidden={hidden}", "--optimizer.warmup-steps", "5", "--optimizer.eps", "1e-5"]
        arguments += [*(f"--run.{name.replace('_', '-')}={value}" for name, value in run.items()), *options]
        port = free_port()
        started = []
        for process in range(processes):
            cluster = {"coordinator": f"127.0.0.1:{port}", "processes": processes, "process": process} if processes > 1 else {}
            flags = [f"--cluster.{name}={value}" for name, value in cluster.items()]
            started.append(front_door(*arguments, *flags, cwd=folder.parent, devices=devices, under=under))
        return started

    return start


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, start) -> Callable[[str], tuple[Path, list[str]]]:
    """Return a function from a shape to the folder of its run and the stderr of its processes."""

    @functools.cache
    def find(shape: str) -> tuple[Path, list[str]]:
        processes, devices, mesh = SHAPES[shape]
        folder = tmp_path_factory.mktemp("uninterrupted") / "run"
        return folder, finish(start(folder, processes, *mesh, devices=devices))

    return find


@pytest.fixture(scope="session")
def alone(uninterrupted) -> Path:
    return uninterrupted("1")[0]


@pytest.fixture(scope="session")
def unharmed(tmp_path_factory) -> Path:
    """The folder of a short run with checkpoints of steps 20 and 40."""
    folder = tmp_path_factory.mktemp("runs") / "unharmed"
    loop.train(short(folder))
    return folder


@pytest.fixture
def folder(unharmed, tmp_path) -> Path:
    """A copy of `unharmed` that a test may damage."""
    return shutil.copytree(unharmed, tmp_path / "copy")


@pytest.fixture(scope="module")
def uncached() -> Iterator[None]:
    """Disable the compilation cache: the partitioner prints warnings only when it compiles, and programs compiled for a TPU
    cannot be loaded without one."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()
