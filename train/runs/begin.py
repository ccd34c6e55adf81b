"""The initial state of a run: fresh parameters, or those of another run (`--init-from`)."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from train import cluster, parts
from train.assemble import Job
from train.errors import UserError
from train.experiment import differences
from train.runs import rundir
from train.runs.integrity import attempt, in_parts, open_manager, verified
from train.sharding import by_name
from train.step import Program, State, with_average


def initial(job: Job, say: Callable[[str], None]) -> State:
    """Return the state before the first step, with the parameters of `init_from` if it is set."""
    state = job.program.init()
    if job.experiment.init_from:
        other = rundir.find_initial(job.experiment.init_from)
        unfit = parts.unfit(job.experiment.objective, other, job.dataset.codec)
        state, matches = initialise_from(state, job, other, tuple(unfit))
        counts = ", ".join(f"{len(names)} {kind}{_some(names) if kind != 'loaded' else ''}" for kind, names in matches.items())
        say(f"{job.path.name}: parameters from {job.experiment.init_from}: {counts}")
        for prefix, reason in unfit.items():
            if any(name.startswith(prefix) for name in matches["unused"]):
                say(f"{job.path.name}: {prefix} of {job.experiment.init_from} is not used: {reason}")
    return state


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:4])}{', …' if names[4:] else ''})" if names else ""


def initialise_from(
    state: State, job: Job, run_dir: Path, unfit: tuple[str, ...] = ()
) -> tuple[State, dict[str, list[str]]]:
    """Return the state with the arrays of another run whose names match, and the names that were `loaded`, `new` and `unused`.

    Arrays with a name that begins with one of `unfit` are not used. Raises UserError if the shapes of a name differ, or if the
    models do not have the same arrays.
    """
    like = by_name({"params": state.params, "model_state": state.model_state})
    params, model_state = read_model(run_dir, job.program.mesh, like)
    given = by_name({**parts.adapted(job.experiment.model, params, state.params), "state": model_state})
    tree = {**state.params, "state": state.model_state}
    wanted = by_name(tree)
    loaded = [name for name in wanted if name in given and not name.startswith(unfit)]
    missing = [name for name in wanted if name.startswith(("model/", "state/")) and name not in given]
    if missing:
        raise UserError(f"init_from {run_dir}: it has no parameter {_first(missing)}; {_unequal_models(job, run_dir)}")
    extra = [name for name in given if name.startswith(("model/", "state/")) and name not in wanted]
    if extra:
        raise UserError(f"init_from {run_dir}: the model lacks its parameter {_first(extra)}; {_unequal_models(job, run_dir)}")

    unequal = [
        f"{name} {list(given[name].shape)} -> {list(wanted[name].shape)}"
        for name in loaded
        if given[name].shape != wanted[name].shape
    ]
    if unequal:
        more = f", and {len(unequal) - 3} more" if len(unequal) > 3 else ""
        raise UserError(f"init_from {run_dir}: shapes differ: {'; '.join(unequal[:3])}{more}; {_unequal_models(job, run_dir)}")

    placed = by_name({**job.program.shardings.params, "state": job.program.shardings.model_state})
    move = jax.jit(lambda arrays: arrays, out_shardings={name: placed[name] for name in loaded})
    moved = move({name: given[name] for name in loaded})
    found = jax.tree.unflatten(jax.tree.structure(tree), [moved.get(name, leaf) for name, leaf in wanted.items()])
    matches = {"loaded": loaded, "new": sorted(wanted.keys() - loaded), "unused": sorted(given.keys() - loaded)}
    state = replace(state, model_state=found.pop("state"), params=found)
    return with_average(state, job.experiment.run.ema_decay), matches


def _first(names: list[str]) -> str:
    return f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}"


def _unequal_models(job: Job, run_dir: Path) -> str:
    """Return the fields in which the model differs from that of another run, and what to do."""
    model = job.experiment.model
    try:
        found = differences(rundir.read_model(run_dir, (type(model).__module__,)), model, "model")
    except UserError:  # a type that this run does not import
        found = []
    kinds = [line for line in found if line.startswith("model.type:")]
    shown = "; ".join((kinds or found)[:5]) or "the models differ, see its experiment.json"
    return f"{shown}; omit --model options to use its model" if found and not kinds else shown


def read_model(run_dir: Path, mesh: jax.sharding.Mesh, like: Mapping[str, jax.Array] = MappingProxyType({})) -> tuple[dict, dict]:
    """Return (params, model state) of the newest checkpoint of a run of any experiment.

    An array with the name and the shape of one in `like` gets its sharding; other arrays, such as layers before
    stacking, are sharded over `mesh`. Raises UserError if there is no checkpoint, or if it is damaged.
    """
    directory = run_dir / "checkpoints"
    with open_manager(directory, read_only=True) as manager:
        step = cluster.gather(manager.latest_step())[0]
        if step is None:
            raise UserError(f"{directory}: no checkpoint; none was saved, or they were removed")
        model, damage = attempt(directory / str(step), lambda: verified(directory / str(step), "model", in_parts(mesh, like)))
        earlier = len(manager.all_steps()) > 1
    if damage:
        what_to_do = "; move it away to use the one before it" if earlier else ""
        raise UserError(f"checkpoint {directory / str(step)} is damaged ({damage}){what_to_do}")
    return model["params"], model["model_state"]
