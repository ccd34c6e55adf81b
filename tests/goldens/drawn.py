"""Random weights that depend only on the name and the shape of each tensor, so that goldens need not store them."""

import zlib

import numpy as np


def drawn(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return a tensor of PyTorch: kernels slightly larger than those of He et al. 2015, norms near 1, biases and means near 0."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x = rng.normal(size=shape)
    if len(shape) in (2, 4):
        x *= np.sqrt(2.25 / np.prod(shape[1:]))
    elif name.endswith("running_var") or name.endswith("weight"):
        x = 1 + 0.3 * np.tanh(x)
    else:
        x *= 0.1
    return x.astype(np.float32)


def images(count: int, size: int) -> np.ndarray:
    """Return images [count, size, size, 3]."""
    return np.random.default_rng(size).normal(size=(count, size, size, 3)).astype(np.float32)
