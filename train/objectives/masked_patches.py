"""Masked autoencoding of images (MAE; He et al. 2022): encode a few patches, and predict the pixels of the others.

Shapes: B batch, H height, W width, C channels, P patches, K kept patches, N numbers in a patch, D width of the encoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fmodels.axes import constrain
from fmodels.model import Model
from fmodels.nn.patches import PatchDecoder, assembled, patches
from fmodels.nn.transformer import TransformerConfig
from train.objectives import Sums, means
from train.objectives.images import OfImages
from train.parts import Rendering

DECODER = TransformerConfig(
    layers=2, width=128, heads=4, norm_position="pre", position="none", norm_epsilon=1e-6, init="xavier",
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MaskedPatches(OfImages):
    """Mean squared error of the hidden patches, each scaled to mean 0 and standard deviation 1. The model encodes the others.

    An evaluation hides the same patches each time."""

    patch: int = 16
    "height and width of a patch, those of the model"
    mask_rate: float = 0.75
    "share of the patches that are hidden"
    decoder: TransformerConfig = DECODER
    "blocks that predict the hidden patches; training uses them only"

    def __post_init__(self):
        if not 0 < self.mask_rate < 1:
            raise ValueError(f"mask_rate must be in (0, 1), not {self.mask_rate}")
        if self.decoder.position != "none" or self.decoder.width % 4:
            raise ValueError("decoder has sinusoidal positions: set its position to none, and its width to a multiple of 4")

    def check(self, experiment: Any) -> None:
        """Raises ValueError if the data has no images, or the model no such patches."""
        super().check(experiment)
        name = type(experiment.model).__name__
        if "image" not in experiment.data.spec():
            raise ValueError(f"objective MaskedPatches needs images, but data {type(experiment.data).__name__} has none")
        if not hasattr(experiment.model, "patch"):
            raise ValueError(f"objective MaskedPatches needs a model of patches, such as VitConfig, not {name}")
        if experiment.model.patch != self.patch:
            raise ValueError(f"objective.patch is {self.patch}, but model.patch is {experiment.model.patch}: set both")
        count = self.grid(experiment.data.spec()["image"].shape)
        if not 0 < self.kept(count[0] * count[1]) < count[0] * count[1]:
            raise ValueError(f"objective.mask_rate {self.mask_rate} hides none or all of {count[0] * count[1]} patches")

    def grid(self, shape: tuple[int, ...]) -> tuple[int, int]:
        return shape[1] // self.patch, shape[2] // self.patch

    def kept(self, count: int) -> int:
        """Return how many of `count` patches the model encodes, K."""
        return round((1 - self.mask_rate) * count)

    def head(self, shape: tuple[int, ...]) -> Model:
        return Model(PatchDecoder(self.decoder, *self.grid(shape), self.patch**2 * shape[-1]))

    def init(self, model: Model, rng: jax.Array, batch: dict) -> tuple[dict, dict]:
        model_rng, head_rng = jax.random.split(rng)
        kept_BK, shape = self.choose(batch, rng), batch["image"].shape
        params, state = model.init(model_rng, batch)
        outputs, _ = model.apply(params, state, {**batch, "kept": kept_BK})
        return {"model": params, "head": {"patches": self.head(shape).init(head_rng, outputs["hidden"], kept_BK)[0]}}, state

    def choose(self, batch: dict, rng: jax.Array) -> jax.Array:
        """Return the indices of the kept patches, [B, K], in random order."""
        rows, columns = self.grid(batch["image"].shape)
        order_BP = jax.vmap(lambda key: jax.random.permutation(key, rows * columns))(self.keys(batch, rng))
        return constrain(order_BP[:, : self.kept(rows * columns)], "batch", None)

    def decoded(self, apply, params, state, batch, kept_BK, rng=None, train: bool = False) -> tuple[jax.Array, Any]:
        """Return the predicted patches [B, P, N] and the model state."""
        model_rng, head_rng = (None, None) if rng is None else jax.random.split(rng)
        outputs, state = apply(params["model"], state, {**self.normalized(batch), "kept": kept_BK}, rng=model_rng, train=train)
        head = self.head(batch["image"].shape)
        found_BPN, _ = head.apply(params["head"]["patches"], {}, outputs["hidden"], kept_BK, rng=head_rng, train=train)
        return found_BPN, state

    def errors(self, found_BPN: jax.Array, batch: dict, kept_BK: jax.Array) -> jax.Array:
        """Return the mean squared error of the hidden patches of each image, [B]."""
        target_BPN = patches(self.normalized(batch)["image"], self.patch).astype(jnp.float32)
        mean, var = target_BPN.mean(-1, keepdims=True), target_BPN.var(-1, keepdims=True)
        errors_BP = jnp.square(found_BPN.astype(jnp.float32) - (target_BPN - mean) * jax.lax.rsqrt(var + 1e-6)).mean(-1)
        hidden_BP = 1.0 - hit(kept_BK, errors_BP.shape[1])
        return (errors_BP * hidden_BP).sum(-1) / hidden_BP.sum(-1)

    def loss(self, apply, params, state, batch, rng, train: bool) -> tuple[Sums, Any]:
        if train:
            batch = super().seen(batch, jax.random.fold_in(rng, 2))
        kept_BK = self.choose(batch, jax.random.fold_in(rng, 4))
        found_BPN, state = self.decoded(apply, params, state, batch, kept_BK, rng, train)
        errors_B = self.errors(found_BPN, batch, kept_BK)
        return Sums({"masked_patches": ((errors_B * batch["valid"]).sum(), batch["valid"].sum())}, {}), state

    def seen(self, batch: dict, rng: jax.Array) -> dict:
        """Return the batch after augmentation, with hidden patches in grey."""
        batch = super().seen(batch, jax.random.fold_in(rng, 2))
        image_BHWC, kept_BK = jnp.asarray(batch["image"]), self.choose(batch, jax.random.fold_in(rng, 4))
        patches_BPN = patches(image_BHWC, self.patch)
        shown_BPN = jnp.where(hit(kept_BK, patches_BPN.shape[1])[..., None], patches_BPN, 0.5)
        return {**batch, "image": assembled(shown_BPN, image_BHWC.shape, self.patch)}

    def summarize(self, sums: Sums) -> dict[str, float]:
        return means(sums)

    def predict(self, apply, params, state, batch) -> dict[str, jax.Array]:
        """Return `error` [B], the mean squared error of the hidden patches."""
        if "example" not in batch:  # rows to predict are not numbered
            batch = {**batch, "example": jnp.arange(len(batch["image"]), dtype=jnp.uint32)}
        kept_BK = self.choose(batch, jax.random.key(0))
        found_BPN, _ = self.decoded(apply, params, state, batch, kept_BK)
        return {"error": self.errors(found_BPN, batch, kept_BK)}

    def describe(self, outputs: dict[str, np.ndarray], codec) -> list[dict]:
        """Return {"error": …} for each row."""
        return [{"error": float(error)} for error in outputs["error"]]

    def render(self, described: Mapping[str, Any], reference: Any = None) -> Rendering:
        return Rendering([f"error of hidden patches: {described['error']:.3f}"])

    def chance(self, references: Any) -> dict[str, float]:
        """Return the error of always predicting the mean of a patch."""
        return {"loss": 1.0}


def hit(kept_BK: jax.Array, count: int) -> jax.Array:
    """Return whether each of `count` patches is kept, [B, P]."""
    return (kept_BK[:, None] == jnp.arange(count)[:, None]).any(-1)
