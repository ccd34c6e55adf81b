"""Several processes on this machine are one run: the losses of one process, exact continuation, and a word where one is alone."""

import functools
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import chex
import numpy as np
import pytest

from train.checkpoint import read_model
from train.cluster import Cluster, code
from train.roll_call import IS_GONE, differs

STEPS = 40
Start = Callable[..., list[subprocess.Popen]]


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def start(front_door) -> Start:
    """The processes of a short run in that folder, each with so many devices."""

    def start(
        folder: Path, processes: int, *options: str, devices: int = 1, steps: int = STEPS, under: Sequence[object] = ()
    ) -> list[subprocess.Popen]:
        settings = {"dir": folder, "steps": steps, "checkpoint-every": 10, "evaluate-every": 20, "log-every": 1}
        arguments = ["run", "digits-mlp", *(f"--run.{name}={value}" for name, value in settings.items()), *options]
        arguments += ["--model.hidden", "64", "--optimizer.warmup-steps", "5"]
        port = free_port()
        them = []
        for process in range(processes):
            of = {"coordinator": f"127.0.0.1:{port}", "processes": processes, "process": process} if processes > 1 else {}
            cluster = [f"--cluster.{name}={value}" for name, value in of.items()]
            them.append(front_door(*arguments, *cluster, cwd=folder.parent, devices=devices, under=under))
        return them

    return start


def finish(processes: list[subprocess.Popen], status: int = 0) -> list[str]:
    """What each said on stderr."""
    said = [process.communicate(timeout=180)[1] for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), said
    return said


def losses(folder: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [(row["step"], row["train/loss"]) for row in rows]
    assert len(dict(found)) == len(found), "a step is logged twice"
    return dict(found)


def wait_for(folder: Path, step: int, processes: list[subprocess.Popen]) -> None:
    log, end = folder / "metrics.jsonl", time.monotonic() + 180
    while all(process.poll() is None for process in processes) and time.monotonic() < end:
        if log.exists() and f'"step": {step},' in log.read_text():
            return
        time.sleep(0.01)
    for process in processes:
        process.kill()
    pytest.fail(f"step {step} did not come: {[process.communicate()[1] for process in processes]}")


def assert_same_run(a: Path, b: Path, tolerance: float = 1e-5) -> None:
    assert losses(a).keys() == losses(b).keys()
    np.testing.assert_allclose(list(losses(a).values()), list(losses(b).values()), rtol=0, atol=tolerance)
    chex.assert_trees_all_close(read_model(a), read_model(b), rtol=0, atol=tolerance)


SHAPES = {  # processes, devices of each, mesh
    "1": (1, 1, ["--mesh.data=1"]),
    "2 data": (2, 1, ["--mesh.data=2"]),
    "2 tensor": (2, 1, ["--mesh.data=1", "--mesh.tensor=2"]),  # both processes read all rows
    "4 replica fsdp tensor": (4, 2, ["--mesh.replica=2", "--mesh.data=1", "--mesh.fsdp=2", "--mesh.tensor=2"]),
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, start) -> Callable[[str], tuple[Path, list[str]]]:
    """The run of a shape, and what its processes said."""

    @functools.cache
    def find(shape: str) -> tuple[Path, list[str]]:
        processes, devices, mesh = SHAPES[shape]
        folder = tmp_path_factory.mktemp("uninterrupted") / "run"
        return folder, finish(start(folder, processes, *mesh, devices=devices))

    return find


@pytest.fixture(scope="module")
def alone(uninterrupted) -> Path:
    return uninterrupted("1")[0]


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "1"])
def test_many_processes_learn_what_one_does(uninterrupted, alone, shape):
    folder, said = uninterrupted(shape)
    assert_same_run(alone, folder)
    assert all(not text.strip() for text in said[1:]), "the first speaks for all"
    result = [json.loads((run / "result.json").read_text())["test"] for run in (alone, folder)]
    assert result[0]["confusion"] == result[1]["confusion"]


def test_what_four_processes_began_others_continue(start, alone, tmp_path):
    begun = tmp_path / "begun"
    began = start(begun, 4, "--mesh.data=2", "--mesh.fsdp=4", devices=2)
    wait_for(begun, 12, began)
    began[2].send_signal(signal.SIGTERM)  # as the scheduler tells one host that it will be preempted
    said = finish(began)
    (step,) = {int(found) for found in re.findall(r"stopped and saved at step (\d+)", "".join(said))}
    assert max(losses(begun)) == step < STEPS
    for processes, devices in ((1, 8), (2, 2), (1, 1)):
        folder = tmp_path / f"on-{processes}-{devices}"
        subprocess.run(["cp", "-r", begun, folder], check=True)
        settings = json.loads((folder / "experiment.json").read_text())
        settings["run"]["dir"] = str(folder)
        (folder / "experiment.json").write_text(json.dumps(settings))
        finish(start(folder, processes, devices=devices))
        assert_same_run(alone, folder)


def test_two_processes_begin_where_another_run_ended_as_one_does(start, alone, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for processes, folder in enumerate((one, two), 1):
        said = finish(start(folder, processes, "--init-from", alone, steps=4))
        assert f"{folder.name}: parameters of {alone}: " in said[0]
    assert_same_run(one, two)
    assert losses(one)[1] < losses(alone)[1]


def test_a_process_that_is_killed_is_told_by_the_others_and_the_run_goes_on_exactly(start, uninterrupted, tmp_path):
    whole, killed = uninterrupted("2 data")[0], tmp_path / "killed"
    for victim, step in ((1, 15), (0, 25)):
        processes = start(killed, 2)
        wait_for(killed, step, processes)
        processes[victim].kill()
        began = time.monotonic()
        _, said = processes[1 - victim].communicate(timeout=120)
        assert processes[1 - victim].returncode == 1
        assert f"error: process {victim} of the run {IS_GONE}\n" in said, said  # among what the runtime has to say
        assert time.monotonic() - began < 100
        processes[victim].communicate()
    finish(start(killed, 2))
    assert losses(killed) == losses(whole)
    chex.assert_trees_all_equal(read_model(killed), read_model(whole))


def test_killed_at_random_moments_it_ends_as_if_it_never_was(start, uninterrupted, tmp_path):
    """FMODELS_KILLS=50 pytest tests/train/test_cluster.py -k random -n 0 kills it fifty times."""
    shape, rng = "4 replica fsdp tensor", random.Random(0)
    kills, count, finished, folder = int(os.environ.get("FMODELS_KILLS", "1")), 0, False, tmp_path / "run"
    _, devices, mesh = SHAPES[shape]
    whole = uninterrupted(shape)[0]
    while count < kills or not finished:
        processes = start(folder, 4, *mesh, "--run.checkpoint-every=5", "--cluster.timeout=20", devices=devices)
        if count < kills:
            time.sleep(rng.uniform(0, 20))  # from the first import to the last checkpoint
            victim = processes[rng.randrange(4)]
            count += victim.poll() is None
            victim.kill()
        said = [process.communicate(timeout=120)[1] for process in processes]
        assert not any("damaged" in text for text in said), said
        finished = all(process.returncode == 0 for process in processes)
        if finished:  # and anew, until it was killed often enough
            assert losses(folder) == losses(whole)
            chex.assert_trees_all_equal(read_model(folder), read_model(whole))
            shutil.rmtree(folder)
        else:
            assert any(process.returncode == -signal.SIGKILL for process in processes), said


def test_two_runs_in_one_directory(start, tmp_path):
    folder = tmp_path / "run"
    first = start(folder, 1, steps=100_000)
    wait_for(folder, 3, first)
    second = start(folder, 1, steps=100_000)
    (said,) = finish(second, 2)
    assert f"{folder} is being trained by process {first[0].pid} on " in said and said.count("\n") == 1
    first[0].send_signal(signal.SIGTERM)
    finish(first)


def test_processes_that_see_other_run_directories(front_door, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    recipe = ["run", "digits-mlp", "--run.steps=2", "--run.dir=here", "--optimizer.warmup-steps=0"]
    finish([front_door(*recipe, cwd=tmp_path)])
    of = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
    them = [front_door(*recipe, *of, f"--cluster.process={i}", cwd=tmp_path / ("elsewhere" * i)) for i in range(2)]
    for said in finish(them, 2):
        assert said == "error: cluster: process 1 differs from process 0: the run directory is new, not begun\n"
    assert not list((tmp_path / "elsewhere").iterdir())


def test_processes_that_see_other_folders_under_one_name(start, front_door, tmp_path):
    """Each of its own, and a copy."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()

    def together(*arguments: str) -> list[str]:
        of = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
        names = enumerate(("here", "there"))
        return finish([front_door(*arguments, *of, f"--cluster.process={i}", cwd=tmp_path / name) for i, name in names], 2)

    run = ["run", "digits-mlp", "--run.dir=run", "--run.steps=4", "--run.checkpoint-every=2", "--optimizer.warmup-steps=0"]
    shared = "all need one folder, on a file system that they share\n"
    assert together(*run) == [f"error: cluster: run of process 1 is not that of process 0; {shared}"] * 2
    shutil.rmtree(tmp_path / "here" / "run")
    for name in ("here", "there"):
        finish([front_door(*run, f"--run.seed={len(name)}", cwd=tmp_path / name)])
    shutil.copy(tmp_path / "here/run/experiment.json", tmp_path / "there/run/experiment.json")
    for said in together("evaluate", "run"):
        assert said.startswith("error: cluster: processes read different checkpoints in ") and said.endswith(shared)
    for said in together(*run, "--run.seed=4"):
        assert said.endswith(f"error: cluster: run of process 1 is not that of process 0; {shared}")


def test_processes_with_different_commands(front_door, tmp_path):
    of = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
    commands = [["run", "digits-mlp", "--dry-run"], ["bench", "digits-mlp"]]
    them = [front_door(*command, *of, f"--cluster.process={i}", cwd=tmp_path) for i, command in enumerate(commands)]
    for said in finish(them, 2):
        what = "the command is bench digits-mlp, not run digits-mlp --dry-run"
        assert said == f"error: cluster: process 1 differs from process 0: {what}\n"


def test_ctrl_c_in_the_first_process_saves_in_all(start, tmp_path):
    folder = tmp_path / "run"
    processes = start(folder, 2, steps=100_000)
    wait_for(folder, 3, processes)
    processes[0].send_signal(signal.SIGINT)
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [130, 0], said
    assert "stopped and saved at step" in said[0]


def test_a_host_that_is_preempted_as_a_run_goes_on_stops_all_at_one_step(start, tmp_path):
    """While its first step compiles, no step of this start has been told yet."""
    folder = tmp_path / "run"
    processes = start(folder, 2, steps=100_000)
    wait_for(folder, 12, processes)
    processes[0].send_signal(signal.SIGTERM)
    finish(processes)
    processes = start(folder, 2, steps=100_000)
    assert processes[0].stderr is not None
    before = "".join(iter(processes[0].stderr.readline, f"run: continues at step {max(losses(folder))} of 100000\n"))
    processes[1].send_signal(signal.SIGTERM)
    (said, _) = finish(processes)
    assert "stopped and saved at step" in said, before


def test_processes_that_differ_say_in_what(start, front_door, tmp_path):
    folder, port = tmp_path / "run", free_port()
    common = ["run", "digits-mlp", f"--run.dir={folder}", f"--cluster.coordinator=127.0.0.1:{port}", "--cluster.processes=2"]
    seeds = [front_door(*common, f"--cluster.process={i}", f"--run.seed={i}", cwd=tmp_path) for i in range(2)]
    for said in finish(seeds, 2):
        assert said.strip().endswith("error: cluster: process 1 differs from process 0: run.seed is 1, not 0")
    assert not folder.exists()
    assert differs(3, {"jax": "0.1"}, {"jax": "0.2"}) == "process 3 differs from process 0: jax is 0.1, not 0.2"


def test_who_does_not_come_is_named(front_door, tmp_path):
    common = ["run", "digits-mlp", f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=4"]
    came = [front_door(*common, f"--cluster.process={i}", "--cluster.timeout=10", cwd=tmp_path) for i in (0, 2)]
    for said in finish(came, 2):
        assert said == "error: cluster: process(es) 1, 3 of 4 did not come in time\n"
    alone = front_door(*common, "--cluster.process=1", "--cluster.timeout=1", cwd=tmp_path)
    (said,) = finish([alone], 2)
    assert said.startswith("error: cluster: process 0 cannot be reached at 127.0.0.1:")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"process": 1}, "coordinator, processes and process are given together, not process alone"),
        ({"coordinator": "here", "processes": 2, "process": 0}, "coordinator must be HOST:PORT, not 'here'"),
        ({"coordinator": "1234", "processes": 2, "process": 0}, "coordinator must be HOST:PORT, not '1234'"),
        ({"coordinator": "a:99999", "processes": 2, "process": 0}, "coordinator must be HOST:PORT, not 'a:99999'"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "process must be at least 0 and less than processes 2, not 2"),
        ({"timeout": 0}, "timeout must be at least 1, not 0"),
    ],
)
def test_what_is_no_cluster_is_named(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Cluster(**fields)


@pytest.mark.quick
def test_the_files_beside_the_project_are_code_too(tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("A = 1")
    before = code([mine])
    mine.write_text("A = 2")
    assert len({before, code([mine]), code([])}) == 3


def mesh_of(folder: Path) -> str:
    meta = json.loads((folder / "checkpoints" / "40" / "meta" / "metadata").read_text())
    return meta["mesh"]


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="Open MPI is not installed: apt install openmpi-bin")
def test_under_mpirun_nothing_needs_to_be_said(start, alone, tmp_path):
    folder = tmp_path / "mpi"
    finish(start(folder, 1, under=["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", 2]))
    assert mesh_of(folder) == "replica 1 x data 2 x fsdp 1 x tensor 1"
    assert_same_run(alone, folder)


@pytest.fixture
def slurm(tmp_path):
    """A Slurm of one node: this machine. It leaves nothing behind."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "srun") if shutil.which(name) is None]
    if missing or os.getuid():
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}: apt install slurm-wlm munge")
    host, folder = socket.gethostname().partition(".")[0], tmp_path / "slurm"
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    ports = free_port(), free_port()
    (folder / "slurm.conf").write_text(
        f"""ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""
    )
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    for path in (key, folder / "munge"):
        path.chmod(0o700 if path.is_dir() else 0o400)
    for parent in folder.parents:  # munged wants to be alone in writing where its key and socket are
        if parent.stat().st_mode & 0o022 and not parent.stat().st_mode & stat.S_ISVTX:
            pytest.skip(f"{parent} can be written by all")
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    munged = ["munged", "--foreground", "--force", f"--socket={folder}/munge/socket", f"--key-file={key}"]
    munged += [f"--{name}-file={folder}/munge/{name}" for name in ("pid", "log", "seed")]
    daemons = []
    try:
        for command in (munged, ["slurmctld", "-D", "-i"], ["slurmd", "-D"]):
            log = (folder / f"{command[0]}.log").open("w")
            daemons.append((subprocess.Popen(command, env=environment, stdout=log, stderr=log), log))
            time.sleep(1)
        for _ in range(60):
            ready = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, check=False)
            if ready.stdout.strip() == "idle":
                break
            time.sleep(0.5)
        else:
            pytest.fail("".join(f"{log.name}: {Path(log.name).read_text()[-2000:]}" for _, log in daemons) + ready.stderr)
        yield folder / "slurm.conf"
    finally:
        for daemon, log in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
            log.close()


def test_under_slurm_nothing_needs_to_be_said(slurm, start, alone, tmp_path):
    folder = tmp_path / "slurm-run"
    finish(start(folder, 1, under=["env", f"SLURM_CONF={slurm}", "srun", "-n", 2, "--overcommit"]))
    assert mesh_of(folder) == "replica 1 x data 2 x fsdp 1 x tensor 1"
    assert_same_run(alone, folder)
