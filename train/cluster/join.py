"""How the processes of a run find each other at the start, and how they leave at the end."""

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

from train.cluster import gathered, is_joined
from train.cluster.roll_call import depart, keep_watch, keeps_watch, roll_call, say_farewell
from train.environment import versions
from train.errors import UserError

TOGETHER = 5  # seconds in which processes that meet one error all end
MISSED = 5  # seconds in which the watch ends a process that has lost another
LONGEST_WAIT = 7 * 24 * 3600  # seconds for the others at the start
HEARTBEAT = 30  # seconds without one, after which a process is taken for dead


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The processes of a run, where JAX cannot tell them: it can on TPU VMs, GKE, Slurm and under Open MPI's mpirun."""

    coordinator: str | None = None
    "HOST:PORT at which the first process can be reached"
    processes: int | None = None
    "how many there are; 1 is this alone, whatever JAX can tell"
    process: int | None = None
    "which this is, from 0"
    timeout: int = 300
    "seconds to wait for the others at the start"

    def __post_init__(self):
        given = [name for name in ("coordinator", "processes", "process") if getattr(self, name) is not None]
        if given and len(given) < 3 and not (given == ["processes"] and self.processes == 1):
            raise ValueError(f"coordinator, processes and process are given together, not {given[0]} alone")
        host, _, port = (self.coordinator or "here:1").rpartition(":")
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ValueError(f"coordinator must be HOST:PORT, with an IPv6 address in brackets, not {self.coordinator!r}")
        if not (is_name(host) and port.isdecimal() and 0 < int(port) < 2**16):
            raise ValueError(f"coordinator must be HOST:PORT, not {self.coordinator!r}")
        if self.processes is not None and self.process is not None and not 0 <= self.process < self.processes:
            raise ValueError(f"process must be at least 0 and less than processes {self.processes}, not {self.process}")
        if not 1 <= self.timeout <= LONGEST_WAIT:
            raise ValueError(f"timeout must be at least 1 and at most {LONGEST_WAIT}, a week, not {self.timeout}")

    def join(self, beside: Sequence[Path] = ()) -> None:
        """Waits for all processes, if there are others. To be called before any device is used. Raises UserError that names those
        which did not come in time, or have another command, other code, that in the files `beside` the project among it, or other
        versions."""
        if self.processes == 1:
            return
        coordinator, processes, process = self.coordinator, self.processes, self.process
        if coordinator is None:
            coordinator, processes, process = _detected(self.timeout)
        if coordinator is None or processes is None or process is None or processes == 1:
            return
        words = takewhile(lambda argument: not argument.startswith("-"), sys.argv[1:])
        command = " ".join([*words, *({"--dry-run"} & set(sys.argv))])  # whatever options differ in is told later, by its name
        mine = {"the command": command, "code": code(beside), "cluster.processes": processes, **versions()}
        keep_watch(process, roll_call(coordinator, processes, process, mine, self.timeout))
        import jax

        jax.config.update("jax_enable_preemption_service", False)  # until something is trained that can be saved
        given = (self.coordinator, self.processes, self.process)
        proxies = {name: os.environ.pop(name) for name in list(os.environ) if "_proxy" in name.lower()}
        try:  # the runtime's connections would go through a proxy that is set for other things, and wait there
            jax.distributed.initialize(*given, initialization_timeout=self.timeout, heartbeat_timeout_seconds=HEARTBEAT)
        finally:
            os.environ.update(proxies)
        atexit.register(_end)
        _speak(process == 0)
        gathered("here")  # Gloo gives the first exchange half a minute, and later ones all the time that they need


def is_name(host: str) -> bool:
    """Whether it could be one of a host."""
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _detected(timeout: int) -> tuple[str | None, int | None, int | None]:
    """(coordinator, processes, process), as far as JAX can tell. Raises UserError in a cluster that it cannot read."""
    from jax._src.clusters import ClusterEnv

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Kubernetes without its package, where most processes are alone
            return ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, timeout)[:3]
    except Exception as error:  # of whatever the cluster's own interface is
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cluster: it cannot be read ({why}); --cluster.processes 1 runs this process alone") from None


def _end() -> None:
    """JAX's own end, at which processes wait for each other, comes before the farewell: who dies until then is missed."""
    from jax._src.api import clean_up

    clean_up()
    say_farewell()


def _speak(aloud: bool) -> None:
    """Standard output is Python's alone, and that of one process: Gloo tells of its connections there."""
    sys.stdout.flush()
    ours = os.dup(1) if aloud else os.open(os.devnull, os.O_WRONLY)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = open(ours, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors, closefd=False)  # noqa: SIM115, until the process ends


def code(beside: Sequence[Path]) -> str:
    """A hash of the sources of this project, and of the files beside it."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted(path for package in ("fmodels", "train", "data") for path in (root / package).rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    for path in sorted(beside):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def leave(status: int) -> None:
    """Before a process of several ends by an error. Where all met it, they end together, as the runtime wants it; one that is
    alone ends at once, since at its usual end it would wait for the others, which wait for it."""
    if status not in (1, 2, 128 + signal.SIGPIPE) or not keeps_watch():
        return
    if not is_joined():
        depart(status)
    sys.stderr.flush()
    from jax._src import distributed

    try:
        assert distributed.global_state.client is not None
        distributed.global_state.client.wait_at_barrier("leaving", 1000 * TOGETHER)
    except Exception:  # whatever the runtime raises
        depart(status)
