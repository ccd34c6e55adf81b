"""Contrastive learning of images (SimCLR; Chen et al. 2020): two augmented views of an image agree, those of others do not.

Shapes: B batch, D width of the model, E width of the projections, V views (2 B).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmodels.axes import constrain
from fmodels.model import Model
from fmodels.nn.heads import ProjectionHead
from train.objectives import Sums, means
from train.objectives.augmentation import Augmentation
from train.objectives.images import OfImages
from train.parts import Rendering

SHOWN = 8  # numbers of an embedding that are shown


@dataclass(frozen=True, kw_only=True)
class ImageContrast(OfImages):
    """NT-Xent loss (Chen et al. 2020, eq. 1) of the projections of two views of each image, against all views in the batch.

    The value of the loss therefore depends on the batch size. An evaluation has the same views each time.
    """

    augment: Augmentation = Augmentation(resized_crop=0.2, flip=True, color_jitter=0.4)
    "random changes that make a view of an image"
    temperature: float = 0.5
    "divisor of the cosines in the loss"
    projection: int = 128
    "width of the projections; training uses them only"

    def __post_init__(self):
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        if self.projection < 1:
            raise ValueError(f"projection must be at least 1, not {self.projection}")
        if not self.augment.is_on:
            raise ValueError("augment must change images: two views without changes are equal")

    panels = ("contrastive_accuracy",)

    def check(self, experiment: Any) -> None:
        """Raises ValueError if the data has no images, or batches are split into microbatches."""
        super().check(experiment)
        if "image" not in experiment.data.spec():
            raise ValueError(f"objective ImageContrast needs images, but data {type(experiment.data).__name__} has none")
        if experiment.run.accumulation > 1:
            raise ValueError(
                f"run.accumulation is {experiment.run.accumulation}, but objective ImageContrast compares all rows of a batch: "
                "set it to 1"
            )

    @property
    def head(self) -> Model:
        return Model(ProjectionHead(self.projection))

    def init(self, model: Model, rng: jax.Array, batch: dict) -> tuple[dict, dict]:
        model_rng, head_rng = jax.random.split(rng)
        params, state = model.init(model_rng, batch)
        outputs, _ = model.apply(params, state, batch)
        return {"model": params, "head": {"projection": self.head.init(head_rng, outputs["pooled"])[0]}}, state

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        views = [self.seen(batch, jax.random.fold_in(rng, view))["image"] for view in (2, 3)]
        # The views of an image are neighbours, so each device keeps the views of its rows.
        image_VHWC = jnp.stack(views, axis=1).reshape(-1, *batch["image"].shape[1:])
        both = {**self.normalized({"image": image_VHWC}), "valid": jnp.repeat(batch["valid"], 2)}
        outputs, state = apply(params["model"], state, both, rng=jax.random.fold_in(rng, 4), train=train)
        z_VE, _ = self.head.apply(params["head"]["projection"], {}, outputs["pooled"])
        z_VE = z_VE.astype(jnp.float32)
        z_VE *= jax.lax.rsqrt((z_VE**2).sum(-1, keepdims=True) + 1e-12)
        cosines_VV = constrain(z_VE @ constrain(z_VE, None, None).T, "batch", None)
        view_V = jnp.arange(len(z_VE))
        is_other_VV = (view_V[:, None] != view_V) & (both["valid"] > 0)
        logits_VV = jnp.where(is_other_VV, cosines_VV / self.temperature, -1e9)
        own_V = jnp.where(view_V[:, None] == (view_V ^ 1), logits_VV, 0).sum(-1)
        losses_V, right_V = jax.nn.logsumexp(logits_VV, -1) - own_V, own_V >= logits_VV.max(-1)
        total = lambda x_V: (x_V * both["valid"]).sum() / 2
        rows = batch["valid"].sum()
        return Sums({"contrastive": (total(losses_V), rows)}, {"contrastive_accuracy": (total(right_V), rows)}), state

    def summarize(self, sums: Sums) -> dict[str, float]:
        return means(sums)

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        """Return the pooled outputs of the model as `embedding` [B, D]."""
        outputs, _ = apply(params["model"], state, self.normalized(batch))
        return {"embedding": outputs["pooled"].astype(jnp.float32)}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"embedding": [D numbers]} for each row."""
        return [{"embedding": embedding_D.tolist()} for embedding_D in outputs["embedding"]]

    def render(self, described: dict[str, Any], reference: Any = None) -> Rendering:
        numbers = ", ".join(f"{x:.3f}" for x in described["embedding"][:SHOWN])
        return Rendering([f"embedding: {numbers}, … ({len(described['embedding'])} numbers)"])
