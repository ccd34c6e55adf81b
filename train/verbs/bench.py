"""`python -m train bench RECIPE`: how fast its step is on this machine; `bench data`: how fast the loader is."""

import json
import statistics
import time
from typing import Any

import jax

from train import cluster, loop, machine, parts
from train.bench import flops
from train.errors import UserError
from train.experiment import Experiment, to_json
from train.verbs.run import named

WARM_STEPS, SECONDS, LEAST_STEPS, MOST_STEPS = 3, 10.0, 10, 200


def main(arguments: list[str]) -> int:
    if arguments[:1] in (["-h"], ["--help"]):
        print("usage: python -m train bench RECIPE|data [--json] [--field value …]")
        return 0
    as_json = "--json" in arguments
    arguments = [a for a in arguments if a != "--json"]
    if arguments[:1] == ["data"]:
        if arguments[1:]:
            raise UserError(f"bench data takes --json and nothing else, not {arguments[1]}")
        from train.bench import data as bench_data

        figures = bench_data.measure()
    else:
        experiment, _ = named(arguments, "bench")
        figures = measure(loop.assemble(experiment), arguments[0])
    if as_json:
        print(json.dumps(figures))
        return 0
    for name, value in figures.items():
        if name == "experiment":  # which is long, and the user's own words
            continue
        print(f"{name:34}{value:,.4g}" if isinstance(value, float) else f"{name:34}{value}")
    return 0


def measure(run: loop.Job, name: str) -> dict[str, Any]:
    """The figures of real training steps on real batches. A matrix product is timed between the steps, in the same run, so that
    the share of it is of the machine as it was then."""
    jax.config.update("jax_enable_compilation_cache", False)  # compile time is a figure
    program, spec = run.program, run.spec
    began = time.perf_counter()
    compiled = program.step.lower(program.shapes, spec).compile()
    compile_seconds = time.perf_counter() - began
    state, devices = program.init(), list(program.mesh.devices.flat)
    seconds, rates, units, unit = [], [], [], ""
    steps = WARM_STEPS
    with run.batches() as batches:
        while len(seconds) < steps:
            host = next(batches)
            batch = jax.block_until_ready(program.place(host))
            start = time.perf_counter()
            state, _ = jax.block_until_ready(compiled(state, batch))
            seconds.append(time.perf_counter() - start)
            unit, count = parts.amount(run.experiment.data, host)
            units.append(count * program.batch_size / len(program.own_rows))
            if len(seconds) == WARM_STEPS:  # all processes take as many as the first finds right
                more = min(max(round(SECONDS / seconds[-1]), LEAST_STEPS), MOST_STEPS)
                steps += cluster.gathered(more)[0]
            if len(seconds) % 5 == 0:
                rates.append(machine.matrix_rate(run.experiment.run.precision, devices, 0.05))
    seconds, units = seconds[WARM_STEPS:], units[WARM_STEPS:]
    work = flops.training(
        run.experiment.objective, run.experiment.model.build(), program.shapes.params, program.shapes.model_state, spec
    )
    step = statistics.median(seconds)
    matrix = statistics.median(rates)
    quartiles = statistics.quantiles(seconds, n=4)
    peak, where = machine.peak_memory()
    return {
        "recipe": name,
        "device": f"{len(devices)} x {devices[0].device_kind}",
        "jax": jax.__version__,
        "experiment": to_json(run.experiment, Experiment),
        "steps": len(seconds),
        "compile_seconds": compile_seconds,
        "step_seconds_median": step,
        "step_seconds_quartiles": [quartiles[0], quartiles[2]],
        f"{unit}_per_second": statistics.median(units) / step,
        "model_tflops_per_step": work / 1e12,
        "model_tflops_per_second": work / step / 1e12,
        "matrix_tflops_per_second": matrix / 1e12,
        "share_of_matrix_rate": work / step / matrix,
        "peak_memory_gib": peak,
        "peak_memory_of": where,
    }
