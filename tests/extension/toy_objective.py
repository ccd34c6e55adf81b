"""An objective outside of the project: predict the sum of the numbers by least squares."""

from dataclasses import dataclass

import jax.numpy as jnp

from fmodels.axes import split
from train.objectives import Sums, means


@dataclass(frozen=True)
class Total:
    scale: float = 1.0

    def init(self, model, rng, batch):
        params, state = model.init(rng, batch)
        outputs, _ = model.apply(split(params)[0], state, batch)
        return {"model": params, "head": {"kernel": jnp.zeros((outputs["pooled"].shape[1],))}}, state

    def loss(self, apply, params, state, batch, rng, train):
        outputs, state = apply(params["model"], state, batch, rng=rng, train=train)
        error = outputs["pooled"] @ params["head"]["kernel"] - self.scale * batch["numbers"].sum(1)
        return Sums({"squared_error": ((error**2 * batch["valid"]).sum(), batch["valid"].sum())}, {}), state

    def summarize(self, sums):
        return means(sums)

    def predict(self, apply, params, state, batch):
        outputs, _ = apply(params["model"], state, batch)
        return {"total": outputs["pooled"] @ params["head"]["kernel"]}

    def describe(self, outputs, codec):
        return [{"total": float(total)} for total in outputs["total"]]
