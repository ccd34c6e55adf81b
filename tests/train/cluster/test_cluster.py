"""Runs of several processes on this machine, also under Open MPI and Slurm, have the same losses as runs of one process."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.train.processes import SHAPES, STEPS, assert_same_run, finish, free_port, losses, wait_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "1"])
def test_several_processes_match_one(uninterrupted, alone, shape):
    folder, errors = uninterrupted(shape)
    assert_same_run(alone, folder)
    assert all(not text.strip() for text in errors[1:]), "only the first process prints"
    result = [json.loads((run / "result.json").read_text())["test"] for run in (alone, folder)]
    assert result[0]["confusion"] == result[1]["confusion"]


def test_a_run_of_four_processes_resumes_with_other_counts(start, front_door, alone, tmp_path):
    original = tmp_path / "original"
    processes = start(original, 4, "--mesh.data=2", "--mesh.fsdp=4", devices=2)
    wait_for(original, 12, processes)
    processes[2].send_signal(signal.SIGTERM)  # a scheduler signals one host before preemption
    errors = finish(processes)
    (step,) = {int(found) for found in re.findall(r"stopped and saved at step (\d+)", "".join(errors))}
    assert max(losses(original)) == step < STEPS
    writers = (original / "checkpoints" / str(step) / "model").glob("ocdbt.process_*")
    assert len([folder for folder in writers if any(folder.rglob("*"))]) == 4
    (table,) = [process.communicate(timeout=120)[0] for process in [front_door("checkpoints", original, cwd=tmp_path)]]
    assert re.search(rf"^ +{step} .* replica 1 x data 2 x fsdp 4 x tensor 1 +valid(, best .*)?$", table, re.M), table
    for count, devices in ((1, 8), (2, 2), (1, 1)):
        folder = tmp_path / f"on-{count}-{devices}"
        subprocess.run(["cp", "-r", original, folder], check=True)
        settings = json.loads((folder / "experiment.json").read_text())
        settings["run"]["dir"] = str(folder)
        (folder / "experiment.json").write_text(json.dumps(settings))
        finish(start(folder, count, devices=devices))
        assert_same_run(alone, folder)


def test_init_from_with_two_processes_matches_one(start, alone, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for count, folder in enumerate((one, two), 1):
        errors = finish(start(folder, count, "--init-from", alone, steps=4))
        assert f"{folder.name}: parameters from {alone}: " in errors[0]
    assert_same_run(one, two)
    assert losses(one)[1] < losses(alone)[1]


def test_a_language_model_with_two_processes(front_door, tmp_path):
    """Two processes match one in training, its output, and the commands that read the run. Proxy variables are ignored."""
    (tmp_path / "notes.txt").write_text("\n".join(f"note {i} is of a thing that is {i % 7} years old" for i in range(200)))
    small = ["--data.source=files:notes.txt", "--data.length=16", "--data.batch-size=8", "--data.vocab-size=300"]
    small += ["--model.layers=1", "--run.steps=6", "--run.checkpoint-every=3", "--run.evaluate-every=3", "--run.log-every=1"]

    def outputs(count: int, *arguments: str) -> list[str]:
        port, clusters = free_port(), [[]]
        if count > 1:
            clusters = [
                [f"--cluster.coordinator=127.0.0.1:{port}", "--cluster.processes=2", f"--cluster.process={i}"] for i in range(2)
            ]
        proxy = ["env", "http_proxy=http://127.0.0.1:9", "https_proxy=http://127.0.0.1:9"]  # nothing listens there
        processes = [front_door(*arguments, *cluster, cwd=tmp_path, under=proxy) for cluster in clusters]
        results = [process.communicate(timeout=180) for process in processes]
        assert [process.returncode for process in processes] == [0] * count, results
        return [output for output, _ in results]

    for count, folder in enumerate(("one", "two"), 1):
        outputs(count, "run", "bert-tiny", f"--run.dir={folder}", *small)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    (alone,) = outputs(1, "evaluate", "two", "--best", "--json", "--mesh.data=1")
    together = outputs(2, "evaluate", "two", "--best", "--json")
    assert together[1] == "", "only the first process prints"
    found = [json.loads(text) for text in (alone, together[0])]
    assert found[0].keys() == found[1].keys() and found[0]["loss"] == pytest.approx(found[1]["loss"], abs=1e-5)

    for verb in (["predict", "two", "--text", "a [MASK] thing", "note 3 is [MASK]"], ["checkpoints", "two"], ["report", "two"]):
        mesh = ["--mesh.data=1"] * (verb[0] != "checkpoints")
        (alone,) = outputs(1, *verb, *mesh)
        assert outputs(2, *verb) == [alone, ""] and alone

    cluster = [f"--cluster.coordinator=127.0.0.1:{free_port()}", "--cluster.processes=2"]
    options = [["--text", "a", "--mesh.data=2"], ["--text", "b", "--mesh.data=1", "--mesh.tensor=2"]]
    processes = [front_door("predict", "two", *options[i], *cluster, f"--cluster.process={i}", cwd=tmp_path) for i in range(2)]
    for text in finish(processes, 2):
        assert (
            text == "error: cluster: process 1 differs from process 0: --text is ['b'], not ['a']; mesh.data is 1, not 2; "
            "mesh.tensor is 2, not 1\n"
        )


def mesh_of(folder: Path) -> str:
    meta = json.loads((folder / "checkpoints" / "40" / "meta" / "metadata").read_text())
    return meta["mesh"]


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="Open MPI is not installed: apt install openmpi-bin")
def test_mpirun_needs_no_cluster_options(start, alone, tmp_path):
    folder = tmp_path / "mpi"
    finish(start(folder, 1, under=["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", 2]))
    assert mesh_of(folder) == "replica 1 x data 2 x fsdp 1 x tensor 1"
    assert_same_run(alone, folder)


@pytest.fixture
def slurm(tmp_path):
    """Run Slurm with this machine as its only node, and return the path of its configuration."""
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
    for parent in folder.parents:  # munged refuses a key or socket below a folder that others can write
        if parent.stat().st_mode & 0o022 and not parent.stat().st_mode & stat.S_ISVTX:
            pytest.skip(f"{parent} is writable by others")
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


def test_slurm_needs_no_cluster_options(slurm, start, alone, tmp_path):
    folder = tmp_path / "slurm-run"
    finish(start(folder, 1, under=["env", f"SLURM_CONF={slurm}", "srun", "-n", 2, "--overcommit"]))
    assert mesh_of(folder) == "replica 1 x data 2 x fsdp 1 x tensor 1"
    assert_same_run(alone, folder)
