"""Optimizers and schedules by name, from Optax, with learning rate, decay and freezing by rules over parameter names."""

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
    """What holds for the parameters whose whole name (`model/encoder/layer_0/mlp/up/kernel`) matches `pattern`."""

    pattern: str
    learning_rate: float = 1.0
    "times the optimizer's"
    weight_decay: float = 1.0
    "times the optimizer's"
    freeze: bool = False

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
    """How parameters move. The first rule that matches a parameter holds for it, and every parameter must match one."""

    name: Literal["adam", "adamw", "sgd", "momentum", "rmsprop", "lion", "muon"] = "adamw"
    "muon moves kernels by Muon (Jordan et al. 2024) with the update size of Adam, and the rest by Adam with Nesterov momentum"
    learning_rate: float = 1e-3
    "at the peak of the schedule"
    schedule: Literal["constant", "linear", "cosine", "rsqrt", "wsd"] = "linear"
    "after the warmup: to final_learning_rate at the last step; rsqrt as 1/sqrt(step); wsd is flat until its last decay_share"
    warmup_steps: int = 0
    "linear, from zero"
    final_learning_rate: float = 0.0
    "share of the peak that linear, cosine and wsd end at"
    decay_share: float = 0.2
    "share of all steps that wsd decays over"
    weight_decay: float = 0.0
    "decoupled (Loshchilov and Hutter 2019)"
    clip_norm: float | None = 1.0
    "global norm of the gradient; None for no clipping"
    b1: float = 0.9
    "decay of the first moment; the momentum of momentum and muon"
    b2: float = 0.999
    "decay of the second moment"
    eps: float = 1e-8
    layer_decay: float = 1.0
    "learning rate of a layer, times that of the layer above (Clark et al. 2020, §3.2)"
    rules: tuple[Rule, ...] = NO_DECAY_ON_BIASES_AND_NORMS

    def __post_init__(self):
        for name in ("learning_rate", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, not {getattr(self, name)}")
        for name in ("warmup_steps", "weight_decay"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        for name in ("decay_share", "layer_decay"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], not {getattr(self, name)}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if not 0 <= self.final_learning_rate <= 1:
            raise ValueError(f"final_learning_rate is a share of the peak, in [0, 1], not {self.final_learning_rate}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm must be greater than 0, or None for no clipping, not {self.clip_norm}")
        if self.name == "adam" and self.weight_decay:
            raise ValueError("adam has no weight decay: choose adamw, or set weight_decay to 0")

    def rate(self, steps: int) -> optax.Schedule:
        """step -> learning rate, of a run of `steps`."""
        peak, final = self.learning_rate, self.learning_rate * self.final_learning_rate
        warmup, rest = self.warmup_steps, max(steps - self.warmup_steps, 1)
        decay = max(min(round(self.decay_share * steps), rest), 1)
        after = {
            "constant": lambda: optax.constant_schedule(peak),
            "linear": lambda: optax.linear_schedule(peak, final, rest),
            "cosine": lambda: optax.cosine_decay_schedule(peak, rest, self.final_learning_rate),
            "rsqrt": lambda: lambda step: peak * jnp.sqrt(max(warmup, 1) / jnp.maximum(step + max(warmup, 1), 1)),
            "wsd": lambda: optax.linear_schedule(peak, final, decay, transition_begin=rest - decay),
        }[self.schedule]()
        # The first step is a step: a warmup of n has taken n of them when it reaches the peak.
        return optax.join_schedules([lambda step: peak * (step + 1) / (warmup + 1), after], [warmup])

    def build(self, params: Any, steps: int) -> optax.GradientTransformation:
        """The transformation for this tree (of arrays or shapes). Raises UserError for a parameter that no rule covers."""
        rules = {name: self.rule(name) for name in by_name(params)}
        rates = {
            name: rule.learning_rate * rate for (name, rule), rate in zip(rules.items(), self.layer_rates(params), strict=True)
        }

        def each(function):  # a stateless transformation by name; frozen parameters are not in the trees it sees
            return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(
                lambda path, update, param: function(_name(path), update, param), updates, params))  # fmt: skip

        moving = optax.chain(
            *([optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm is not None else []),
            self.direction(),
            each(lambda name, update, param: update + self.weight_decay * rules[name].weight_decay * param),
            each(lambda name, update, param: update * rates[name]),
            optax.scale_by_learning_rate(self.rate(steps)),
        )
        labels = jax.tree_util.tree_map_with_path(lambda path, _: "frozen" if rules[_name(path)].freeze else "moving", params)
        return optax.partition({"moving": moving, "frozen": optax.set_to_zero()}, labels)

    def rule(self, name: str) -> Rule:
        """The first rule that matches the parameter."""
        for rule in self.rules:
            if re.fullmatch(rule.pattern, name):
                return rule
        raise UserError(f"optimizer.rules: no rule covers the parameter {name}; end with one of pattern '.*'")

    def direction(self) -> optax.GradientTransformation:
        """The optimizer by name, without learning rate and decay."""
        match self.name:
            case "adam" | "adamw":
                return optax.scale_by_adam(self.b1, self.b2, self.eps)
            case "sgd":
                return optax.identity()
            case "momentum":
                return optax.trace(self.b1)
            case "rmsprop":
                return optax.scale_by_rms(self.b2, self.eps)
            case "lion":
                return optax.scale_by_lion(self.b1, self.b2)
            case "muon":
                # 0.2 is the root mean square of a typical Adam update (Liu et al. 2025, §2.2). Optax has Muon as a whole
                # optimizer only: a rate of -1 leaves its direction.
                return optax.contrib.muon(
                    -1.0, beta=self.b1, eps=self.eps, adam_b1=self.b1, adam_b2=self.b2,
                    consistent_rms=0.2, muon_weight_dimension_numbers=_matrices,
                )  # fmt: skip

    def layer_rates(self, params: Any) -> list[Any]:
        """layer_decay to the number of layers above, for each parameter: heads and final norms have none above, embeddings all.
        A scanned parameter has one rate for each of its layers."""
        leaves = list(by_name(params).items())
        stacked = [leaf.shape[0] for name, leaf in leaves if "/layers/" in name]
        depth = max([*stacked, *(int(match[1]) + 1 for name, _ in leaves if (match := _LAYER.search(name)))], default=0)

        def rate(name: str, leaf: Any):
            if "/layers/" in name:
                return (self.layer_decay ** np.arange(depth, 0, -1, dtype=np.float32)).reshape(-1, *(1,) * (leaf.ndim - 1))
            if match := _LAYER.search(name):
                return self.layer_decay ** (depth - int(match[1]))
            return self.layer_decay ** (depth + 1) if "embedding" in name else 1.0

        return [rate(name, leaf) for name, leaf in leaves]


_LAYER = re.compile(r"/layer_(\d+)/")


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _matrices(params: Any) -> Any:
    """Muon's dimensions of each kernel that is a matrix, or a stack of them where layers are scanned; None for the rest."""

    def dimensions(path, leaf):
        rank = leaf.ndim - ("/layers/" in _name(path))
        return optax.contrib.MuonDimensionNumbers(-2, -1) if _name(path).endswith("/kernel") and rank == 2 else None

    return jax.tree_util.tree_map_with_path(dimensions, params)
