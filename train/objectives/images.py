"""Base class of the objectives that may read images: augmentation in training, and normalization.

Shapes: B batch, H height, W width, C channels.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from train.objectives.augmentation import Augmentation


@dataclass(frozen=True, kw_only=True)
class OfImages:
    augment: Augmentation = Augmentation()
    "random changes of training images"
    # `how` fields: they depend on the data only, and its fingerprint detects a change.
    image_mean: tuple[float, ...] | None = field(default=None, metadata={"how": True})
    "number to subtract from each channel of an image (None: from data.normalize)"
    image_std: tuple[float, ...] | None = field(default=None, metadata={"how": True})
    "number by which to divide each channel, after the subtraction (None: from data.normalize)"

    def check(self, experiment: Any) -> None:
        """Raises ValueError if there are options of images but no images, or a mean or std for other channels."""
        if (self.image_mean is None) != (self.image_std is None):
            raise ValueError("objective.image_mean and objective.image_std go together: set both, or neither")
        image = experiment.data.spec().get("image")
        if image is None and self.augment.is_on:
            raise ValueError(f"objective.augment changes images, but data {type(experiment.data).__name__} has none")
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            if image is not None and value is not None and len(value) != image.shape[-1]:
                raise ValueError(f"objective.{name} has {len(value)} numbers for images with {image.shape[-1]} channels")
        if self.image_std is not None and not min(self.image_std) > 0:
            raise ValueError(f"objective.image_std must be greater than 0, not {self.image_std}")

    def keys(self, batch: dict, rng: jax.Array) -> jax.Array:
        """Return a random key for each example, [B]. It does not depend on the other examples of the batch."""
        return jax.vmap(lambda example: jax.random.fold_in(rng, example))(batch["example"])

    def seen(self, batch: dict, rng: jax.Array) -> dict:
        """Return the batch after augmentation."""
        if not self.augment.is_on:
            return batch
        return {**batch, "image": self.augment(jnp.asarray(batch["image"]), self.keys(batch, rng))}

    def normalized(self, batch: dict) -> dict:
        """Return the batch with normalized images."""
        if self.image_mean is None or "image" not in batch:
            return batch
        assert self.image_std is not None, "image_mean and image_std are set together"
        image_BHWC = batch["image"]
        shift, factor = (jnp.asarray(x, image_BHWC.dtype) for x in (self.image_mean, [1 / std for std in self.image_std]))
        return {**batch, "image": (image_BHWC - shift) * factor}
