"""Optax optimizers and schedules by name, with rules over parameter names for learning rate, weight decay and freezing."""

import re
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

from train.errors import UserError
from train.sharding import by_name


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Settings of the parameters with a full name (`model/encoder/layer_0/mlp/up/kernel`) that matches `pattern`."""

    pattern: str
    "regular expression for the full parameter name"
    learning_rate: float = 1.0
    "factor on optimizer.learning_rate"
    weight_decay: float = 1.0
    "factor on optimizer.weight_decay, l1 and l2"
    freeze: bool = False
    "keep the parameters fixed, and the batch norm statistics of modules with frozen parameters only"

    def __post_init__(self):
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"pattern {self.pattern!r} is not a regular expression: {error}") from None
        for name in ("learning_rate", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")


NO_DECAY_ON_BIASES_AND_NORMS = (Rule(pattern=r".*/(bias|scale|relative_bias/.*)", weight_decay=0.0), Rule(pattern=r".*"))


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Optimizer, learning rate schedule and parameter rules. The first matching rule applies; every parameter needs one."""

    name: Literal["adam", "adamw", "sgd", "momentum", "rmsprop", "lion", "muon"] = "adamw"
    "optimizer; muon: Muon (Jordan et al. 2024) with the update size of Adam for kernels, Nesterov Adam for the rest"
    learning_rate: float = 1e-3
    "peak learning rate of the schedule"
    schedule: Literal["constant", "linear", "cosine", "rsqrt", "wsd"] = "linear"
    "learning rate after the warmup; rsqrt: 1/sqrt(step); wsd: constant, then linear decay (warmup-stable-decay)"
    warmup_steps: int = 0
    "steps of linear warmup from zero"
    final_learning_rate: float = 0.0
    "learning rate of the last step with linear, cosine and wsd, as a fraction of the peak"
    decay_share: float = 0.2
    "fraction of all steps in which wsd decays"
    weight_decay: float = 0.0
    "decoupled weight decay (Loshchilov and Hutter 2019)"
    l1: float = 0.0
    "factor of the L1 norm of the parameters in the loss. The reported loss is without it; clipping too"
    l2: float = 0.0
    "factor of half the squared L2 norm of the parameters in the loss, as PyTorch's weight_decay for SGD; also not reported"
    clip_norm: float | None = 1.0
    "maximum global norm of the gradient; None: no clipping"
    b1: float = 0.9
    "decay rate of the first moment; momentum coefficient of momentum and muon"
    b2: float = 0.999
    "decay rate of the second moment"
    eps: float = 1e-8
    "added to the denominator for numerical stability"
    layer_decay: float = 1.0
    "factor on the learning rate of a layer, relative to the layer above (Clark et al. 2020, §3.2)"
    rules: tuple[Rule, ...] = NO_DECAY_ON_BIASES_AND_NORMS
    "rules by parameter name; the first match applies"

    def __post_init__(self):
        for name in ("learning_rate", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, not {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay", "l1", "l2"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("decay_share", "layer_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], not {getattr(self, name)}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if not 0 <= self.final_learning_rate <= 1:
            raise ValueError(f"final_learning_rate must be in [0, 1] (a fraction of the peak), not {self.final_learning_rate}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be greater than 0, or None for no clipping, not {self.clip_norm}")
        if self.name == "adam" and self.weight_decay:
            raise ValueError(f"weight_decay {self.weight_decay} is not supported by adam: choose adamw or optimizer.l2")

    def rate(self, steps: int) -> optax.Schedule:
        """Return the schedule, step -> learning rate, for a run of `steps` steps, numbered from 0.

        The rate is the peak at step `warmup_steps`, and the final rate at the last step, `steps - 1`.
        """
        peak, final = self.learning_rate, self.learning_rate * self.final_learning_rate
        warmup, rest = self.warmup_steps, max(steps - 1 - self.warmup_steps, 1)
        decay = max(min(round(self.decay_share * steps), rest), 1)
        after = {
            "constant": lambda: optax.constant_schedule(peak),
            "linear": lambda: optax.linear_schedule(peak, final, rest),
            "cosine": lambda: optax.cosine_decay_schedule(peak, rest, self.final_learning_rate),
            "rsqrt": lambda: lambda step: peak * jnp.sqrt(max(warmup, 1) / jnp.maximum(step + max(warmup, 1), 1)),
            "wsd": lambda: optax.linear_schedule(peak, final, decay, transition_begin=rest - decay),
        }[self.schedule]()
        # The warmup starts above 0, so the first update is not wasted; the rate reaches the peak after `warmup` updates.
        return optax.join_schedules([lambda step: peak * (step + 1) / (warmup + 1), after], [warmup])

    def build(self, params: Any, steps: int) -> "Gated":
        """Return the transformation for a tree of arrays or shapes. Raises UserError for a parameter that no rule matches."""
        rules = {name: self.rule(name) for name in by_name(params)}
        rates = {
            name: rule.learning_rate * rate for (name, rule), rate in zip(rules.items(), self.layer_rates(params), strict=True)
        }

        def by_parameter(function):  # stateless; its trees do not contain the frozen parameters
            return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(
                lambda path, update, param: function(_name(path), update, param), updates, params))  # fmt: skip

        def penalty(name: str, gradient: jax.Array, param: jax.Array) -> jax.Array:
            return gradient + rules[name].weight_decay * (self.l2 * param + self.l1 * jnp.sign(param))

        moving = optax.chain(
            *([clip(self.clip_norm)] if self.clip_norm is not None else []),
            *([by_parameter(penalty)] if self.l1 or self.l2 else []),
            gated(self.direction()),
            by_parameter(lambda name, update, param: update + self.weight_decay * rules[name].weight_decay * param),
            by_parameter(lambda name, update, param: update * rates[name]),
            gated(optax.scale_by_learning_rate(self.rate(steps))),
        )
        groups = jax.tree_util.tree_map_with_path(lambda path, _: "frozen" if rules[_name(path)].freeze else "moving", params)
        return Gated(*optax.partition({"moving": moving, "frozen": optax.set_to_zero()}, groups))

    def frozen(self, params: Any) -> frozenset[str]:
        """Return the names of the frozen parameters."""
        return frozenset(name for name in by_name(params) if self.rule(name).freeze)

    def rule(self, name: str) -> Rule:
        """Return the first rule that matches the parameter. Raises UserError if no rule does."""
        for rule in self.rules:
            if re.fullmatch(rule.pattern, name):
                return rule
        raise UserError(f"optimizer.rules: no rule matches the parameter {name}; add a last rule with pattern '.*'")

    def direction(self) -> optax.GradientTransformation:
        """Return the optimizer `name` without learning rate and weight decay."""
        match self.name:
            case "adam" | "adamw":
                return adam(self.b1, self.b2, self.eps)
            case "sgd":
                return optax.identity()
            case "momentum":
                return optax.trace(self.b1)
            case "rmsprop":
                return optax.scale_by_rms(self.b2, self.eps)
            case "lion":
                return optax.scale_by_lion(self.b1, self.b2)
            case "muon":
                # 0.2 is the root mean square of a typical Adam update (Liu et al. 2025, §2.2). Optax offers Muon as a
                # complete optimizer only; a learning rate of -1 gives its direction.
                return optax.contrib.muon(
                    -1.0, beta=self.b1, eps=self.eps, adam_b1=self.b1, adam_b2=self.b2,
                    consistent_rms=0.2, muon_weight_dimension_numbers=_matrices,
                )  # fmt: skip

    def layer_rates(self, params: Any) -> list[Any]:
        """Return the learning rate factor of each parameter: layer_decay ** depth below the head.

        The depth is 0 for heads and final norms, 1 for the top layer, and largest for embeddings. Scanned parameters have one
        factor per layer."""
        leaves = list(by_name(params).items())
        stacked = [leaf.shape[0] for name, leaf in leaves if "/layers/" in name]
        depth = max([*stacked, *(int(match[1]) + 1 for name, _ in leaves if (match := _LAYER.search(name)))], default=0)
        if self.layer_decay != 1 and not depth:
            raise UserError(f"optimizer.layer_decay is {self.layer_decay}, but the model has no numbered layers; set it to 1")

        def rate(name: str, leaf: Any):
            if "/layers/" in name:
                return (self.layer_decay ** np.arange(depth, 0, -1, dtype=np.float32)).reshape(-1, *(1,) * (leaf.ndim - 1))
            if match := _LAYER.search(name):
                return self.layer_decay ** (depth - int(match[1]))
            return self.layer_decay ** (depth + 1) if "embedding" in name else 1.0

        return [rate(name, leaf) for name, leaf in leaves]


class Gated(optax.GradientTransformationExtraArgs):
    """A transformation whose `update(…, good=…)` returns its state unchanged if `good` is False."""


def gated(transformation: optax.GradientTransformation) -> Gated:
    """Return any transformation as a `Gated` one."""
    if isinstance(transformation, Gated):
        return transformation
    inner = optax.with_extra_args_support(transformation)

    def update(updates: Any, state: Any, params: Any = None, *, good: jax.Array, **extra: Any) -> tuple[Any, Any]:
        updates, new = inner.update(updates, state, params, **extra)
        return updates, jax.tree.map(lambda n, o: jnp.where(good, n, o), new, state)

    return Gated(inner.init, update)  # pyright: ignore[reportArgumentType]


def global_norm(tree: Any) -> jax.Array:
    """Return the L2 norm of all leaves together. The sums of the leaves are stacked, so the compiler does not fuse, and thereby
    repeat, their addition in every use of the norm."""
    return jnp.sqrt(squares(tree).sum())


def squares(tree: Any) -> jax.Array:
    """Return the sum of squares of each leaf."""
    return jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)])


def clip(limit: float) -> optax.GradientTransformation:
    """Return `optax.clip_by_global_norm` as a product with one scalar, which is fused into the next transformation."""

    def update(updates: Any, _params: Any) -> Any:
        factor = limit / jnp.maximum(global_norm(updates), limit)
        return jax.tree.map(lambda u: u * factor, updates)

    return optax.stateless(update)


def adam(b1: float, b2: float, eps: float) -> Gated:
    """Return `optax.scale_by_adam` (Kingma and Ba 2015), gated in the pass that computes the moments.

    The update is computed from the gated moments, so the compiler overwrites the old moments without copying them first."""

    def update(grads: Any, state: Any, _params: Any = None, *, good: jax.Array, **_: Any) -> tuple[Any, Any]:
        def moment(decay: float, order: int, old: Any) -> Any:
            return jax.tree.map(lambda g, m: jnp.where(good, (1 - decay) * g**order + decay * m, m), grads, old)

        mu, nu = moment(b1, 1, state.mu), moment(b2, 2, state.nu)
        count = jnp.where(good, optax.safe_increment(state.count), state.count)
        mu_scale, nu_scale = 1 / (1 - b1**count), 1 / (1 - b2**count)
        updates = jax.tree.map(lambda m, v: m * mu_scale / (jnp.sqrt(v * nu_scale) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return Gated(optax.scale_by_adam(b1, b2, eps).init, update)  # pyright: ignore[reportArgumentType]


_LAYER = re.compile(r"/layer_(\d+)/")


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _matrices(params: Any) -> Any:
    """Return the Muon dimensions of kernels that are matrices, or stacks of matrices if scanned; None for other parameters."""

    def dimensions(path, leaf):
        rank = leaf.ndim - ("/layers/" in _name(path))
        return optax.contrib.MuonDimensionNumbers(-2, -1) if _name(path).endswith("/kernel") and rank == 2 else None

    return jax.tree_util.tree_map_with_path(dimensions, params)
