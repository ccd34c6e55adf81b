"""Base class of the objectives with a dense head on the pooled output of a model.

Shapes: B batch, D model width, C outputs of the head.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from fmodels.model import Model
from fmodels.nn.heads import ClassifierHead


@dataclass(frozen=True, kw_only=True)
class Pooled:
    dropout: float = 0.0
    "dropout rate of the pooled vector"

    def __post_init__(self):
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")

    @property
    def outputs(self) -> int:
        """Number of outputs of the head, C."""
        raise NotImplementedError(type(self).__name__)

    HEADS: ClassVar[Mapping[str, str]] = {"classifier": "pooled"}
    """Output of the model that each head reads. Without it, there is no head."""

    @property
    def head(self) -> Model:
        return Model(ClassifierHead(self.outputs, self.dropout))

    def init(self, model: Model, rng: jax.Array, batch: dict) -> tuple[dict, dict]:
        model_rng, head_rng = jax.random.split(rng)
        params, state = model.init(model_rng, batch)
        outputs, _ = model.apply(params, state, batch)
        heads = {name: self.head.init(head_rng, outputs[field])[0] for name, field in self.HEADS.items() if field in outputs}
        return {"model": params, "head": heads}, state

    def logits(self, apply, params, state, batch, rng=None, train: bool = False) -> tuple[jax.Array, Any]:
        """Return the outputs of the classifier, [B, C], and the model state."""
        logits, state = self.heads(apply, params, state, batch, rng, train)
        return logits["classifier"], state

    def heads(self, apply, params, state, batch, rng=None, train: bool = False) -> tuple[dict[str, jax.Array], Any]:
        """Return the outputs of each head, [B, C], and the model state."""
        model_rng, head_rng = (None, None) if rng is None else jax.random.split(rng)
        if head_rng is not None:
            head_rng = jax.random.fold_in(head_rng, batch["example"][0])  # so that it differs between microbatches
        outputs, state = apply(params["model"], state, batch, rng=model_rng, train=train)
        head = lambda name, field: self.head.apply(params["head"][name], {}, outputs[field], rng=head_rng, train=train)[0]
        return {name: head(name, field) for name, field in self.HEADS.items() if field in outputs}, state
