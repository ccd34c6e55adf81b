"""A summary of a run before it trains: parameters, FLOPs, memory, mesh and batch shapes."""

from typing import Any

import jax
import numpy as np

from train.assemble import Job
from train.bench import flops
from train.sharding import by_name, mesh_text


def describe(job: Job, directory: str) -> str:
    """Compile the step of an assembled run for its mesh and return a summary. Does not train, and writes no files.

    `directory` is the state of its run directory.
    """
    program, shapes = job.program, job.program.shapes
    leaves = list(by_name(shapes.params).items())
    placed = jax.tree.leaves(program.shardings.params)
    count = lambda prefix: sum(int(np.prod(leaf.shape)) for name, leaf in leaves if name.startswith(prefix))
    work = flops.training(job.experiment.objective, job.experiment.model.build(), shapes.params, shapes.model_state, job.spec)
    memory: Any = program.step.lower(shapes, job.spec).compile().memory_analysis()
    rows = {split: len(examples) for split, examples in job.dataset.splits.items()}
    arguments, temporaries = _mib(memory.argument_size_in_bytes), _mib(memory.temp_size_in_bytes)
    lines = [
        f"parameters    {count(''):,}: model {count('model/'):,}, heads {count('head/'):,}",
        f"FLOPs         {work:,} per step, {work / job.experiment.data.batch_size:,.0f} per example (products and convolutions)",
        f"memory        {arguments} of state and batch, {temporaries} of temporaries per device",
        f"mesh          {mesh_text(program.mesh.shape)} on {program.mesh.size} {program.mesh.devices.flat[0].platform} device(s)",
        f"data          {', '.join(f'{split} {n:,}' for split, n in rows.items())}",
        "first batch   " + ", ".join(f"{name} {s.dtype}{list(s.shape)}" for name, s in job.spec.items()),
        f"run directory {directory}",
    ]
    if program.mesh.size > 1:
        replicated = [name for (name, _), sharding in zip(leaves, placed, strict=True) if sharding.is_fully_replicated]
        lines.append(f"replicated    {len(replicated)} of {len(leaves)} parameters; fmodels shardings lists them")
    lines += [f"note          {note}" for note in job.dataset.notes]
    return "\n".join([*lines, "nothing was trained; only the cache was written"])


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
