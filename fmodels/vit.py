"""Vision Transformer (Dosovitskiy et al. 2021): a transformer encoder over the patches of an image.

Shapes: B batch, H height, W width, C channels, P patches, T length (patches, and the class token if any), D model width.
"""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from fmodels.axes import constrain, named
from fmodels.model import Model
from fmodels.nn.convolution import Conv
from fmodels.nn.layers import Dropout
from fmodels.nn.positions import sinusoidal_grid
from fmodels.nn.transformer import Init, NormPosition, Position, Stack, TransformerConfig


@dataclass(frozen=True, kw_only=True)
class VitConfig(TransformerConfig):
    """Configuration of a Vision Transformer. The defaults are ViT-B/16."""

    patch: int = 16
    "height and width of a patch; must divide those of the image"
    pooling: Literal["cls", "mean"] = "cls"
    "pooled output: that of a class token (cls), or the mean over the patches (mean)"
    norm_position: NormPosition = "pre"
    norm_epsilon: float | None = 1e-6
    position: Position = "learned"
    init: Init = "xavier"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    max_length: int = 1024

    def __post_init__(self):
        super().__post_init__()
        if self.patch < 1:
            raise ValueError(f"patch must be at least 1, not {self.patch}")
        if self.position not in ("learned", "sinusoidal", "none"):
            raise ValueError(f"position {self.position} is for texts: choose learned, sinusoidal or none")
        if self.position == "sinusoidal" and self.width % 4:
            raise ValueError(f"position sinusoidal needs a width that is a multiple of 4, not {self.width}")

    def check(self, experiment: Any) -> None:
        """Raises ValueError if the patches do not divide the images."""
        super().check(experiment)
        if "image" in (spec := experiment.data.spec()):
            grid(self, spec["image"].shape)

    def build(self) -> Model:
        return Model(Vit(self))


# Layers, width, heads. Ti and S are those of Touvron et al. 2021.
SIZES = {"ti": (12, 192, 3), "s": (12, 384, 6), "b": (12, 768, 12), "l": (24, 1024, 16), "h": (32, 1280, 16)}


def vit(size: str, patch: int, **changes) -> VitConfig:
    """Return the config of a published size, with any fields overridden: `vit("b", 16, drop_path=0.1)`."""
    layers, width, heads = SIZES[size]
    return VitConfig(**{"layers": layers, "width": width, "heads": heads, "patch": patch, **changes})


def grid(config: VitConfig, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the number of patches along the height and the width of images [B, H, W, C]. Raises ValueError if none fit."""
    _, height, width, _ = shape
    if height % config.patch or width % config.patch:
        raise ValueError(f"model.patch {config.patch} does not divide images of {height}x{width}")
    count = (height // config.patch) * (width // config.patch) + (config.pooling == "cls")
    if count > config.max_length:
        raise ValueError(
            f"images of {height}x{width} have {count} patches and class tokens, more than model.max_length {config.max_length}"
        )
    return height // config.patch, width // config.patch


class Vit(nn.Module):
    """Reads `image` [B, H, W, C], and `kept` [B, K], indices of the patches to encode (without it: all, row by row).

    Returns `hidden` [B, K, D], one vector per patch, and `pooled` [B, D]."""

    config: VitConfig

    @nn.compact
    def __call__(self, batch: dict[str, jax.Array], train: bool) -> dict[str, jax.Array]:
        c, image_BHWC = self.config, batch["image"]
        rows, columns = grid(c, image_BHWC.shape)
        embed = Conv(
            c.width, c.patch, c.patch, "valid", use_bias=True, init=nn.initializers.lecun_normal(), name="patch_embedding"
        )
        x_BTD = embed(image_BHWC).reshape(len(image_BHWC), -1, c.width)
        has_token = c.pooling == "cls"
        positions_TD = self.positions(rows, columns, has_token + x_BTD.shape[1]).astype(x_BTD.dtype)
        x_BTD += positions_TD[int(has_token) :]
        if "kept" in batch:
            x_BTD = jnp.take_along_axis(x_BTD, batch["kept"][..., None], axis=1)
        if has_token:
            token_D = self.param("class_embedding", named(nn.initializers.zeros, "embed"), (c.width,)).astype(x_BTD.dtype)
            token_B1D = jnp.broadcast_to(token_D + positions_TD[0], (len(x_BTD), 1, c.width))
            x_BTD = jnp.concatenate([token_B1D, x_BTD], axis=1)
        x_BTD = constrain(Dropout(c.dropout)(x_BTD, train), "batch", "length", None)
        hidden_BTD, _ = Stack(c, name="encoder")(x_BTD, None, jnp.arange(x_BTD.shape[1])[None], train)
        if c.pooling == "cls":
            pooled_BD, hidden_BPD = hidden_BTD[:, 0], hidden_BTD[:, 1:]
        else:
            pooled_BD, hidden_BPD = hidden_BTD.mean(1), hidden_BTD
        return {"hidden": hidden_BPD, "pooled": constrain(pooled_BD, "batch", None)}

    def positions(self, rows: int, columns: int, length: int) -> jax.Array:
        """Return the position encodings [T, D]; sinusoidal ones are 0 for the class token."""
        c = self.config
        if c.position == "learned":
            return self.param("position_embedding", named(nn.initializers.normal(0.02), None, "embed"), (length, c.width))
        if c.position == "none":
            return jnp.zeros((length, c.width))
        table_PD = sinusoidal_grid(rows, columns, c.width)
        return jnp.pad(table_PD, [(length - len(table_PD), 0), (0, 0)])
