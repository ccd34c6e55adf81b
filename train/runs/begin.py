"""The state that a run begins with: fresh parameters, or those of another run (`--init-from`)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from fmodels.nn.transformer import stack_layers, unstack_layers
from train import cluster
from train.assemble import Job
from train.errors import UserError
from train.runs import rundir
from train.runs.integrity import attempt, in_parts, opened, verified
from train.sharding import by_name
from train.step import Program, State


def initial(job: Job, say: Callable[[str], None]) -> State:
    """Return the state before the first step, with the parameters of `init_from` if the experiment names one."""
    state = job.program.init()
    if job.experiment.init_from:
        state, report = initialise_from(state, job.program, rundir.find(job.experiment.init_from))
        counts = ", ".join(f"{len(found)} {what}{_some(found) if what != 'taken' else ''}" for what, found in report.items())
        say(f"{job.path.name}: parameters of {job.experiment.init_from}: {counts}")
    return state


def _some(found: list[str]) -> str:
    return f" ({', '.join(found[:4])}{', …' if found[4:] else ''})" if found else ""


def initialise_from(state: State, program: Program, run_dir: Path) -> tuple[State, dict[str, list[str]]]:
    """The fresh state with the parameters and the model state of another run, as far as names agree, and which were `taken`, are
    `new`, and were `left over`. Raises UserError where a name agrees and its shape does not, or where one of the model is
    missing."""
    like = by_name({"params": state.params, "model_state": state.model_state})
    params, model_state = read_model(run_dir, program.mesh, like)
    given = by_name({**stacked_as(params, state.params), "state": model_state})
    ours = {**state.params, "state": state.model_state}
    wanted = by_name(ours)
    taken = [name for name in wanted if name in given]
    missing = [name for name in wanted if name.startswith(("model/", "state/")) and name not in given]
    if missing:
        raise UserError(
            f"init_from {run_dir}: it has no parameter {missing[0]}{f' and {len(missing) - 1} more' if missing[1:] else ''}: "
            "the models differ; its experiment.json says what its model is"
        )

    wrong = [
        f"{name} {list(given[name].shape)} -> {list(wanted[name].shape)}"
        for name in taken
        if given[name].shape != wanted[name].shape
    ]
    if wrong:
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(f"init_from {run_dir}: shapes do not fit: {'; '.join(wrong[:3])}{more}")

    placed = by_name({**program.shardings.params, "state": program.shardings.model_state})
    move = jax.jit(lambda arrays: arrays, out_shardings={name: placed[name] for name in taken})
    moved = move({name: given[name] for name in taken})
    found = jax.tree.unflatten(jax.tree.structure(ours), [moved.get(name, leaf) for name, leaf in wanted.items()])
    report = {"taken": taken, "new": sorted(wanted.keys() - given.keys()), "left over": sorted(given.keys() - wanted.keys())}
    return replace(state, model_state=found.pop("state"), params=found), report


def read_model(run_dir: Path, mesh: jax.sharding.Mesh, like: Mapping[str, jax.Array] = MappingProxyType({})) -> tuple[dict, dict]:
    """(params, model state) of the newest checkpoint of a run, whatever the experiment: laid out as the arrays `like` them, by
    name and shape, and otherwise (where layers are yet to be stacked, too) in parts on the devices of `mesh`.

    Raises UserError if there is none, or it is damaged."""
    directory = run_dir / "checkpoints"
    with opened(directory, read_only=True) as manager:
        step = cluster.gathered(manager.latest_step())[0]
        if step is None:
            raise UserError(f"{directory}: there is no checkpoint: none was saved yet, or they are gone")
        model, damage = attempt(directory / str(step), lambda: verified(directory / str(step), "model", in_parts(mesh, like)))
        earlier = len(manager.all_steps()) > 1
    if damage:
        what_to_do = "; move it away to begin from the one before it" if earlier else ""
        raise UserError(f"checkpoint {directory / str(step)} is damaged ({damage}){what_to_do}")
    return model["params"], model["model_state"]


def stacked_as(given: Any, wanted: Any) -> Any:
    """`given` with the layers of each stack one by one or as one, as `wanted` has them."""
    if not (isinstance(given, dict) and isinstance(wanted, dict)):
        return given
    if "layers" in wanted and "layer_0" in given:
        given = stack_layers(given)
    elif "layer_0" in wanted and "layers" in given:
        given = unstack_layers(given)
    return {name: stacked_as(part, wanted.get(name)) for name, part in given.items()}
