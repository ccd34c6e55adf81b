"""The train step and its state: one pure function, jitted once, with a donated state and explicit shardings.

Building and lowering the step needs shapes and a mesh but no arrays, so it can be compiled ahead of time for absent hardware.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from fmodels import axes
from train import parts, sharding
from train.errors import UserError
from train.frozen import frozen_state, keeping
from train.objectives import Sums
from train.optim import gated, global_norm, squares
from train.sharding import by_name

Batch = dict[str, Any]
WARM_STEPS = 50  # steps before spikes are detected


@dataclass(frozen=True, kw_only=True)
class Guard:
    """The reaction to a loss or a gradient that is not finite, and to gradient spikes. Such an update is never applied."""

    policy: Literal["abort", "skip"] = "abort"
    "abort: stop the run; skip: drop the update and continue"
    limit: int = 10
    "maximum number of skipped updates per run"
    spike: float | None = None
    "treat a gradient norm above this multiple of its running mean as a spike (None: do not detect spikes)"

    def __post_init__(self):
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1, not {self.limit}")
        if self.spike is not None and not self.spike > 1:
            raise ValueError(f"spike must be greater than 1, or None, not {self.spike}")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GuardState:
    skipped: jax.Array  # int32, number of skipped updates
    bad_step: jax.Array  # int32, last step with a bad update, or -1
    bad_leaf: jax.Array  # int32, first parameter with a non-finite gradient at that step, or -1
    mean_norm: jax.Array  # float32, running mean of the gradient norm


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """The state of a run between steps."""

    step: jax.Array  # int32, number of steps done
    params: Any
    opt_state: Any
    model_state: Any  # batch statistics
    seed: jax.Array  # uint32; the randomness of a step is fold_in(seed, step)
    guard: GuardState
    average: tuple[Any, Any] | None = None  # moving averages of params and model_state, with run.ema_decay

    @property
    def evaluated(self) -> tuple[Any, Any]:
        """The parameters and the model state to evaluate and to save as the model."""
        return (self.params, self.model_state) if self.average is None else self.average


@dataclass(frozen=True)
class Program:
    """The functions of a run, jitted for its mesh, with the shapes and shardings of the state and the batch."""

    mesh: jax.sharding.Mesh
    shapes: State  # of ShapeDtypeStruct
    shardings: State
    axes: tuple[Any, Any]  # logical axes of the parameters and of the model state
    batch_sharding: NamedSharding
    batch_size: int
    own_rows: np.ndarray  # indices in a batch of the rows that this process reads
    init: Callable[[], State]
    step: jax.stages.Wrapped  # (state, batch) -> (state, {"sums": Sums, "guard": GuardState})
    evaluate: jax.stages.Wrapped  # (params, model_state, batch) -> Sums
    predict: jax.stages.Wrapped  # (params, model_state, batch) -> the objective's outputs
    schedule: Callable[[Any], Any]

    def place(self, batch: Batch) -> Batch:
        """Put a batch (with several processes, this process's rows of it) on the devices."""
        return sharding.put_batch(batch, self.batch_sharding, self.batch_size, self.own_rows)


def cast(tree: Any, precision: str) -> Any:
    """Return the tree with its float32 arrays in the compute precision."""
    dtype = {"f32": jnp.float32, "bf16": jnp.bfloat16}[precision]
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, tree)


def batch_spec(data: Any) -> Batch:
    """Return the shape and dtype of every array of a batch."""
    return {name: jax.ShapeDtypeStruct(s.shape, s.dtype) for name, s in data.spec().items()}


def build(experiment: Any, spec: Batch, mesh: jax.sharding.Mesh) -> Program:
    """Build the program of a resolved experiment for batches of shapes `spec`. Raises UserError if an array cannot be sharded."""
    run, objective, model = experiment.run, experiment.objective, experiment.model.build()
    rules = experiment.mesh.rules
    layout, used = sharding.activations(mesh, rules)

    def sums_of(params, model_state, batch: Batch, rng, train: bool, microbatch=0) -> tuple[Sums, Any]:
        def apply(*args, rng=None, **kwargs):  # dropout depends on the microbatch, corruption on the example
            apply_model = keeping(model.apply, frozen)
            return apply_model(*args, rng=None if rng is None else jax.random.fold_in(rng, microbatch), **kwargs)

        inputs = {**cast(batch, run.precision), "valid": batch["valid"]}  # counts stay exact
        return objective.loss(apply, cast(params, run.precision), model_state, inputs, rng, train)

    def loss(params, model_state, batch: Batch, rng, microbatch=0, denominators=None):
        sums, model_state = sums_of(params, model_state, batch, rng, True, microbatch)
        if denominators is None:
            denominators = {name: d for name, (_, d) in sums.terms.items()}
        return sum(n / jnp.maximum(denominators[name], 1e-9) for name, (n, _) in sums.terms.items()), (sums, model_state)

    def gradient(params, model_state, batch: Batch, rng) -> tuple[Any, Sums, Any]:
        """Return the gradient, the sums and the model state of a whole batch, computed in `accumulation` microbatches.

        A first pass computes the denominators of the whole batch, which do not depend on the parameters (the compiler removes its
        other results). Each microbatch divides its numerators by them.
        """

        def differentiate(*args: Any) -> tuple[Any, Any]:
            grads, aux = jax.grad(loss, has_aux=True)(*args)
            return jax.lax.with_sharding_constraint(grads, param_shardings), aux  # reduce-scatter instead of all-reduce

        if run.accumulation == 1:
            grads, (sums, model_state) = differentiate(params, model_state, batch, rng)
            return grads, sums, model_state
        # Microbatch i has rows i, i + k, i + 2k, …, so each device already holds its rows of every microbatch.
        micro = jax.tree.map(lambda x: x.reshape(-1, run.accumulation, *x.shape[1:]).swapaxes(0, 1), batch)
        counts = jax.lax.map(
            lambda b: {name: d for name, (_, d) in sums_of(params, model_state, b, rng, True)[0].terms.items()}, micro
        )
        denominators = jax.tree.map(lambda d: d.sum(0), counts)

        def add(carry, indexed):
            (grads, model_state), (i, batch) = carry, indexed
            more, (sums, model_state) = differentiate(params, model_state, batch, rng, i, denominators)
            return (jax.tree.map(jnp.add, grads, more), model_state), sums

        zeros = jax.tree.map(jnp.zeros_like, params)
        (grads, model_state), sums = jax.lax.scan(add, (zeros, model_state), (jnp.arange(run.accumulation), micro))
        return grads, jax.tree.map(lambda x: x.sum(0), sums), model_state

    def step(state: State, batch: Batch) -> tuple[State, dict]:
        rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(state.seed), 1), state.step)
        with axes.traced_for(layout):
            grads, sums, model_state = gradient(state.params, state.model_state, batch, rng)
        guard, good = check(state, sums, grads, run.guard)
        updates, opt_state = tx.update(grads, state.opt_state, state.params, good=good)
        keep = lambda new, old: jax.tree.map(lambda n, o: jnp.where(good, n, o), new, old)
        params = keep(optax.apply_updates(state.params, updates), state.params)
        model_state = keep(model_state, state.model_state)
        average = state.average and keep(moved(state.average, (params, model_state), run.ema_decay, state.step), state.average)
        new = State(state.step + 1, params, opt_state, model_state, state.seed, guard, average)
        norm = {"gradient_norm": (global_norm(grads), jnp.ones(()))}
        return new, {"sums": Sums(sums.terms, {**sums.metrics, **norm}), "guard": guard}

    def evaluate(params, model_state, batch: Batch, train: bool = False) -> Sums:
        with axes.traced_for(layout):
            return sums_of(params, model_state, batch, jax.random.key(0), train)[0]

    def predict(params, model_state, batch: Batch) -> dict:
        with axes.traced_for(layout):
            return objective.predict(model.apply, cast(params, run.precision), model_state, cast(batch, run.precision))

    def fresh() -> tuple[Any, Any]:
        zeros = {name: jnp.zeros(x.shape, x.dtype) for name, x in spec.items()}
        return objective.init(model, jax.random.fold_in(jax.random.key(run.seed), 0), zeros)

    def init() -> State:
        params, model_state = map(lambda tree: axes.split(tree)[0], fresh())
        guard = GuardState(*map(jnp.asarray, (np.int32(0), np.int32(-1), np.int32(-1), np.float32(0))))
        state = State(jnp.zeros((), jnp.int32), params, tx.init(params), model_state, jnp.uint32(run.seed), guard)
        return with_average(state, run.ema_decay)

    try:
        with axes.traced_for(layout):
            parts.check(experiment)
    except ValueError as error:
        raise UserError(str(error)) from None
    try:
        boxed = jax.eval_shape(fresh)
    except KeyError as missing:
        pair = f"{type(objective).__name__} on {type(experiment.model).__name__}"
        raise UserError(f"{pair} reads {missing}, which is not in the batches ({', '.join(spec)}) or model outputs") from None
    (param_shapes, names), (state_shapes, state_names) = map(axes.split, boxed)
    frozen = frozen_state(parts.frozen(experiment.optimizer, param_shapes), param_shapes, state_shapes)
    tx = gated(experiment.optimizer.build(param_shapes, run.steps))
    shapes = jax.eval_shape(init)
    whole = NamedSharding(mesh, PartitionSpec())
    param_shardings = sharding.shardings(mesh, rules, shapes.params, names)
    shardings = replace(
        jax.tree.map(lambda _: whole, shapes),
        params=param_shardings,
        model_state=sharding.shardings(mesh, rules, shapes.model_state, state_names),
        opt_state=sharding.like_params(shapes.opt_state, shapes.params, param_shardings, whole),
    )
    if run.ema_decay is not None:
        shardings = replace(shardings, average=(shardings.params, shardings.model_state))
    rows = sharding.batch_sharding(mesh, rules)
    if mesh.size > 1:  # report activations that cannot be sharded now, not at the first step
        for train in (True, False):
            jax.eval_shape(partial(evaluate, train=train), shapes.params, shapes.model_state, spec)
        sharding.check_rules(rules, used.union(jax.tree.leaves([names, state_names])))
    size = experiment.data.batch_size
    return Program(
        mesh, shapes, shardings, (names, state_names), rows, size, sharding.own_rows(rows, size),
        init=jax.jit(init, out_shardings=shardings),
        step=jax.jit(step, in_shardings=(shardings, rows), out_shardings=(shardings, whole), donate_argnums=0),
        evaluate=jax.jit(evaluate, in_shardings=(shardings.params, shardings.model_state, rows), out_shardings=whole),
        predict=jax.jit(predict, in_shardings=(shardings.params, shardings.model_state, rows), out_shardings=whole),
        schedule=experiment.optimizer.rate(run.steps),
    )  # fmt: skip


def with_average(state: State, decay: float | None) -> State:
    """Return the state with averages that begin at its parameters and its model state, if `decay` is given."""
    return state if decay is None else replace(state, average=jax.tree.map(jnp.copy, (state.params, state.model_state)))


def moved(average: Any, new: Any, decay: float, step: jax.Array) -> Any:
    """Return the exponential moving average after a step. Early averages forget faster, by (1 + step) / (10 + step)."""
    decay_now = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda old, x: old + (1 - decay_now) * (x - old), average, new)


def check(state: State, sums: Sums, grads: Any, guard: Guard) -> tuple[GuardState, jax.Array]:
    """Return (new guard state, whether to apply this update). After an abort no update is applied, which preserves the state."""
    old = state.guard
    finite = jnp.isfinite(squares(grads))  # a pass over the gradients that the norm shares
    loss = sum(n / jnp.maximum(d, 1e-9) for n, d in sums.terms.values())
    norm = global_norm(grads)
    good = finite.all() & jnp.isfinite(loss) & jnp.isfinite(norm)
    if guard.spike is not None:
        good &= (state.step < WARM_STEPS) | (norm <= guard.spike * old.mean_norm)
    stopped = old.bad_step >= 0 if guard.policy == "abort" else jnp.array(False)
    new = GuardState(
        skipped=old.skipped + ~(good | stopped),
        bad_step=jnp.where(good | stopped, old.bad_step, state.step),
        bad_leaf=jnp.where(good | stopped, old.bad_leaf, jnp.where(finite.all(), -1, jnp.argmin(finite)).astype(jnp.int32)),
        mean_norm=jnp.where(good, jnp.where(old.mean_norm == 0, norm, 0.98 * old.mean_norm + 0.02 * norm), old.mean_norm),
    )
    return new, good & ~stopped


def check_guard(experiment: Any, program: Program, guard: GuardState) -> None:
    """Raises UserError if the guard stops the run."""
    policy, skipped, bad_step = experiment.run.guard, int(guard.skipped), int(guard.bad_step)
    if bad_step < 0 or (policy.policy == "skip" and skipped <= policy.limit):
        return
    leaf = int(guard.bad_leaf)
    cause = "the loss or the gradient norm is not finite, or spiked"
    if leaf >= 0:
        cause = f"the gradient of {list(by_name(program.shapes.params))[leaf]} is not finite"
    count = ""
    if policy.policy == "skip":
        count = f"{skipped} updates were skipped, more than run.guard.limit {policy.limit}; the last at "
    name = Path(experiment.run.dir).name
    raise UserError(f"{name}: {count}step {bad_step + 1}: {cause}; lower --optimizer.learning-rate, or inspect the batch")
