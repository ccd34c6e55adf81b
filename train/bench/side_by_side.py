"""Time the same training step of two programs in turns: ours and that of a careful PyTorch user, on the CPU.

The workers are separate processes that take turns, with one untimed step at the beginning of each turn. `same allocator` gives
PyTorch the settings of malloc that `train/allocator.py` makes for ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

THREADS = 2
TUNABLES = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296:glibc.malloc.arena_max=1"
WORKERS = {"fmodels": {}, "torch": {}, "torch, same allocator": {"GLIBC_TUNABLES": TUNABLES}}
Step = Callable[[], object]


def main(module: str, doc: str, sizes: Sequence[str], ours: Callable[[str], Step], theirs: Callable[[str], Step]) -> None:
    """Compare the steps that `ours(size)` and `theirs(size)` return, and print the result as JSON.

    `module` is the name by which Python runs the caller.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=sizes)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="timed steps per turn")
    parser.add_argument("--worker", choices=WORKERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work((ours if options.worker == "fmodels" else theirs)(options.size))
    else:
        print(json.dumps(compare(module, options.size, options.rounds, options.steps), indent=1))


def training_step(experiment: Any, batch: dict[str, Any]) -> Step:
    """Return a function that does one step of an experiment on a batch, and waits for it."""
    import jax

    from train.step import build

    spec = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    program = build(experiment, spec, experiment.mesh.build())
    state, placed = program.init(), program.place(batch)

    def step() -> None:
        nonlocal state
        state, metrics = program.step(state, placed)
        jax.block_until_ready(metrics)

    return step


def work(step: Step) -> None:
    """Answer each line `N` on stdin with the seconds of N steps, as JSON on stdout, after one untimed step."""
    step()
    print("ready", flush=True)
    for line in sys.stdin:
        step()
        seconds = []
        for _ in range(int(line)):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        print(json.dumps(seconds), flush=True)


def compare(module: str, size: str, rounds: int, steps: int) -> dict[str, object]:
    """Return the median seconds of each worker, and the ratios of theirs to ours: the median over the rounds, and quartiles."""
    workers = {}
    for name, variables in WORKERS.items():
        command = [sys.executable, "-m", module, size, "--worker", name]
        environment = {**os.environ, **variables, "OMP_NUM_THREADS": str(THREADS), "JAX_PLATFORMS": "cpu"}
        workers[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        if workers[name].stdout.readline() != "ready\n":
            raise SystemExit(f"error: the worker {name} failed")
    seconds: dict[str, list[list[float]]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            print(steps, file=worker.stdin, flush=True)
            seconds[name].append(json.loads(worker.stdout.readline()))
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    medians = {name: [statistics.median(turn) for turn in turns] for name, turns in seconds.items()}
    result: dict[str, object] = {"size": size, "rounds": rounds, "steps": steps}
    for name, turns in medians.items():
        result[f"seconds {name}"] = statistics.median(turns)
        if name != "fmodels":
            ratios = [their / our for their, our in zip(turns, medians["fmodels"], strict=True)]
            result[f"{name} / fmodels"] = statistics.median(ratios)
            result[f"{name} / fmodels, quartiles"] = statistics.quantiles(ratios, n=4)[::2]
    return result
