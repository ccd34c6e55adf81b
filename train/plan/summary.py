"""What a run will be, before it is one: parameters, FLOPs, memory, the shapes of a batch, and what lies where."""

from typing import Any

import jax
import numpy as np

from train.assemble import Job
from train.bench import flops
from train.sharding import by_name, mesh_text


def describe(run: Job) -> str:
    """Compiles the step of an assembled run for its mesh, and tells in a few lines. Trains nothing and writes nothing."""
    program, shapes = run.program, run.program.shapes
    leaves = list(by_name(shapes.params).items())
    placed = jax.tree.leaves(program.shardings.params)
    count = lambda prefix: sum(int(np.prod(leaf.shape)) for name, leaf in leaves if name.startswith(prefix))
    work = flops.training(run.experiment.objective, run.experiment.model.build(), shapes.params, shapes.model_state, run.spec)
    memory: Any = program.step.lower(shapes, run.spec).compile().memory_analysis()
    rows = {split: len(examples) for split, examples in run.dataset.splits.items()}
    held, more = _mib(memory.argument_size_in_bytes), _mib(memory.temp_size_in_bytes)
    lines = [
        f"parameters    {count(''):,}: {count('model/'):,} of the model, {count('head/'):,} of heads",
        f"FLOPs a step  {work:,}, {work / run.experiment.data.batch_size:,.0f} an example, of products and convolutions",
        f"memory        {held} of state and batch, {more} more at work, a device",
        f"mesh          {mesh_text(program.mesh.shape)} on {program.mesh.size} {program.mesh.devices.flat[0].platform} device(s)",
        f"data          {', '.join(f'{split} {n:,}' for split, n in rows.items())}",
        "first batch   " + ", ".join(f"{name} {s.dtype}{list(s.shape)}" for name, s in run.spec.items()),
    ]
    if program.mesh.size > 1:
        whole = [name for (name, _), sharding in zip(leaves, placed, strict=True) if sharding.is_fully_replicated]
        lines.append(f"replicated    {len(whole)} of {len(leaves)} parameters; python -m train shardings says which, and why")
    lines += [f"note          {note}" for note in run.dataset.notes]
    return "\n".join([*lines, "nothing was trained, and nothing written but to the cache"])


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
