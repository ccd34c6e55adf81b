"""`fmodels bench RECIPE`: measure the training step on this machine; `fmodels bench data`: measure the loader."""

import json
import statistics
import time
from dataclasses import dataclass
from typing import Any

import jax

from train import cli, cluster, machine, parts
from train.assemble import Job, assemble
from train.bench import flops
from train.experiment import Experiment, to_json

WARM_STEPS, SECONDS, MIN_STEPS, MAX_STEPS = 3, 10.0, 10, 200


@dataclass(frozen=True, kw_only=True)
class Arguments(cli.Launch):
    json: bool = False
    "print one JSON value and nothing else"


@dataclass(frozen=True)
class DataArguments:
    """Measure the data loader: rows per second of each kind of data."""

    json: bool = False
    "print one JSON value and nothing else"


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print("usage: fmodels bench RECIPE|data [--json] [--field value …]")
        print("fmodels bench RECIPE --help lists the fields of a recipe.")
        return 0
    if arguments[:1] == ["data"]:
        wanted = cli.parse(DataArguments, arguments[1:], "fmodels bench data")
        from train.bench import data as bench_data

        figures = bench_data.measure()
    else:
        experiment, wanted, _ = cli.join_recipe(arguments, "bench", Arguments)
        figures = measure(assemble(experiment), arguments[0])
    if wanted.json:
        print(json.dumps(figures))
        return 0
    for name, value in figures.items():
        if name == "experiment":  # long, and known to the user
            continue
        print(f"{name:34}{value:,.4g}" if isinstance(value, float) else f"{name:34}{value}")
    return 0


def measure(job: Job, name: str) -> dict[str, Any]:
    """Time real training steps on real batches. Matrix products are timed between the steps, so that both rates are measured
    under the same machine load."""
    jax.config.update("jax_enable_compilation_cache", False)  # compile time is measured
    program, spec = job.program, job.spec
    began = time.perf_counter()
    compiled = program.step.lower(program.shapes, spec).compile()
    compile_seconds = time.perf_counter() - began
    state, devices = program.init(), list(program.mesh.devices.flat)
    seconds, rates, units, unit = [], [], [], ""
    steps = WARM_STEPS
    with job.batches() as batches:
        while len(seconds) < steps:
            host = next(batches)
            batch = jax.block_until_ready(program.place(host))
            start = time.perf_counter()
            state, _ = jax.block_until_ready(compiled(state, batch))
            seconds.append(time.perf_counter() - start)
            unit, count = parts.amount(job.experiment.data, host)
            units.append(count * program.batch_size / len(program.own_rows))
            if len(seconds) == WARM_STEPS:  # the first process sets the number of steps for all
                more = min(max(round(SECONDS / seconds[-1]), MIN_STEPS), MAX_STEPS)
                steps += cluster.gather(more)[0]
            if len(seconds) % 5 == 0:
                rates.append(machine.matrix_rate(job.experiment.run.precision, devices, 0.05))
    seconds, units = seconds[WARM_STEPS:], units[WARM_STEPS:]
    step_flops = flops.training(
        job.experiment.objective, job.experiment.model.build(), program.shapes.params, program.shapes.model_state, spec
    )
    step_seconds = statistics.median(seconds)
    matrix_rate = statistics.median(rates)
    quartiles = statistics.quantiles(seconds, n=4)
    peak, measured_on = machine.peak_memory()
    return {
        "recipe": name,
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "jax": jax.__version__,
        "experiment": to_json(job.experiment, Experiment),
        "steps": len(seconds),
        "compile_seconds": compile_seconds,
        "step_seconds_median": step_seconds,
        "step_seconds_quartiles": [quartiles[0], quartiles[2]],
        f"{unit}_per_second": statistics.median(units) / step_seconds,
        "model_tflops_per_step": step_flops / 1e12,
        "model_tflops_per_second": step_flops / step_seconds / 1e12,
        "matrix_tflops_per_second": matrix_rate / 1e12,
        "share_of_matrix_rate": step_flops / step_seconds / matrix_rate,
        "peak_memory_gib": peak,
        "peak_memory_of": measured_on,
    }
