"""Startup and shutdown of a multi-process run."""

import atexit
import hashlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from train.cluster import gather, is_joined
from train.cluster.roll_call import disconnect, exit_alone, is_watching, roll_call, start_watching
from train.environment import versions
from train.errors import UserError

EXIT_TOGETHER = 5  # seconds to wait for the other processes when all exit with an error
MISSED = 5  # seconds until the watch has ended all processes after one is lost
MAX_TIMEOUT = 7 * 24 * 3600  # seconds
HEARTBEAT = 30  # seconds without a heartbeat after which the runtime considers a process dead


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Processes of a run. JAX detects them on TPU VMs, GKE, Slurm and under Open MPI's mpirun; set these fields elsewhere."""

    coordinator: str | None = None
    "HOST:PORT of the first process"
    processes: int | None = None
    "number of processes; 1 disables the detection of a cluster"
    process: int | None = None
    "index of this process, from 0"
    timeout: int = 300
    "seconds to wait for the other processes at startup"

    def __post_init__(self):
        given = [name for name in ("coordinator", "processes", "process") if getattr(self, name) is not None]
        if given and len(given) < 3 and not (given == ["processes"] and self.processes == 1):
            raise ValueError(f"coordinator, processes and process must be given together, not {given[0]} alone")
        host, _, port = (self.coordinator or "localhost:1").rpartition(":")
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ValueError(f"coordinator must be HOST:PORT, with an IPv6 address in brackets, not {self.coordinator!r}")
        if not (is_host_name(host) and port.isdecimal() and 0 < int(port) < 2**16):
            raise ValueError(f"coordinator must be HOST:PORT, not {self.coordinator!r}")
        if self.processes is not None and self.process is not None and not 0 <= self.process < self.processes:
            raise ValueError(f"process must be at least 0 and less than processes {self.processes}, not {self.process}")
        if not 1 <= self.timeout <= MAX_TIMEOUT:
            raise ValueError(f"timeout must be from 1 to {MAX_TIMEOUT} seconds (one week), not {self.timeout}")

    def join(self, user_files: Sequence[Path] = ()) -> None:
        """Wait for all processes and initialize `jax.distributed`; do nothing in a run of one process. Must be called before any
        device is used. Raises UserError with the numbers of processes that do not connect in time, or that run another command,
        other library versions, or other code (of the project or `user_files`)."""
        if self.processes == 1:
            return
        coordinator, processes, process = self.coordinator, self.processes, self.process
        if coordinator is None:
            coordinator, processes, process = _detect(self.timeout)
        if coordinator is None or processes is None or process is None or processes == 1:
            return
        words = takewhile(lambda argument: not argument.startswith("-"), sys.argv[1:])
        command = " ".join([*words, *({"--dry-run"} & set(sys.argv))])  # differing options are reported later, by name
        parts = {"the command": command, "code": code_hash(user_files), "cluster.processes": processes, **versions()}
        start_watching(process, roll_call(coordinator, processes, process, parts, self.timeout))
        import jax

        jax.config.update(
            "jax_enable_preemption_service", False
        )  # `cluster.watch_preemption` enables it when there is state to save
        given = (self.coordinator, self.processes, self.process)
        proxies = {name: os.environ.pop(name) for name in list(os.environ) if "_proxy" in name.lower()}
        try:  # with a proxy set, the runtime would connect through it and hang
            jax.distributed.initialize(*given, initialization_timeout=self.timeout, heartbeat_timeout_seconds=HEARTBEAT)
        finally:
            os.environ.update(proxies)
        atexit.register(_shut_down)
        _reserve_stdout(process == 0)
        gather("ready")  # Gloo's first collective times out after 30 s, so run it while all processes are here


def is_host_name(host: str) -> bool:
    """Return whether `host` is a valid host name."""
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _detect(timeout: int) -> tuple[str | None, int | None, int | None]:
    """Return (coordinator, processes, process) as JAX detects them; unknown ones are None. Raises UserError on failure."""
    from jax._src.clusters import ClusterEnv

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # JAX warns on Kubernetes if its client package is missing
            return ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, timeout)[:3]
    except Exception as error:  # each cluster API raises its own exceptions
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cluster: detection failed ({why}); run one process alone with --cluster.processes 1") from None


def _shut_down() -> None:
    """Run JAX's shutdown, which waits for the other processes, then disconnect.

    Until then, the watch detects a process that dies."""
    from jax._src.api import clean_up

    clean_up()
    disconnect()


def _reserve_stdout(prints: bool) -> None:
    """Reserve standard output for Python, since Gloo logs its connections to it; discard it if not `prints`."""
    sys.stdout.flush()
    output = os.dup(1) if prints else os.open(os.devnull, os.O_WRONLY)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    sys.stdout = open(output, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False)  # noqa: SIM115, until the process ends


def code_hash(user_files: Sequence[Path]) -> str:
    """Return a hash of the sources of this project and of `user_files`."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(path for package in ("fmodels", "train", "data") for path in (root / package).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    for path in sorted(user_files):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def leave(status: int) -> None:
    """Prepare one of several processes to exit with an error.

    If all processes have the error, they exit together, as the runtime requires. If only this one has it, it exits at once: a
    normal exit would wait for the others, which wait for this one."""
    if status not in (1, 2, 128 + signal.SIGPIPE) or not is_watching():
        return
    if not is_joined():
        exit_alone(status)
    sys.stderr.flush()
    from jax._src import distributed

    try:
        assert distributed.global_state.client is not None
        distributed.global_state.client.wait_at_barrier("leaving", 1000 * EXIT_TOGETHER)
    except Exception:  # any error of the runtime
        exit_alone(status)
