"""Time the forms of convolutions and of max pooling on this machine: value and gradients, in turns.

    python -m train.bench.convolution                      # prints a table; * marks the form that the layer chooses

`fmodels/nn/convolution.py` chooses by the platform and the shape. A form without a number does not apply.
On two CPU cores with JAX 0.12 it printed, among others:

                                          direct   product    slices
    MNIST, first                           1.20*      0.84
    ResNet-20, stage 1                     9.18*     21.74
    ResNet-20, stride 2                     7.12     6.40*
    ResNet-50 at 64, 1x1                    9.60     8.54*
    MobileNet, depthwise                  226.30              19.48*
    MNIST, 2x2                              4.36               1.17*
    ResNet-50 at 64, 3x3, stride 2         17.01               4.04*
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from train.allocator import keep_freed_memory

# Name: batch, size of the image, channels in and out, window, stride, groups.
CONVOLUTIONS = {
    "MNIST, first": (32, 28, 1, 32, 3, 1, 1),
    "MNIST, second": (32, 13, 32, 64, 3, 1, 1),
    "MNIST, third": (32, 5, 64, 64, 3, 1, 1),
    "ResNet-20, stage 1": (64, 32, 16, 16, 3, 1, 1),
    "ResNet-20, stage 2": (64, 16, 32, 32, 3, 1, 1),
    "ResNet-20, stride 2": (64, 32, 16, 32, 3, 2, 1),
    "ResNet-20, stage 3": (64, 8, 64, 64, 3, 1, 1),
    "ResNet-50 at 64, 1x1": (32, 16, 256, 64, 1, 1, 1),
    "ResNet-50 at 64, 4x4 map": (32, 4, 256, 256, 3, 1, 1),
    "MobileNet, depthwise": (32, 28, 144, 144, 3, 1, 144),
    "MobileNet, depthwise, stride 2": (32, 28, 144, 144, 3, 2, 144),
}
POOLS = {"MNIST, 2x2": (32, 26, 32, 2, 2), "ResNet-50 at 64, 3x3, stride 2": (32, 32, 64, 3, 2)}
Form = Callable[..., object]


def timed(forms: Mapping[str, Form], arrays: Sequence[np.ndarray], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of the value and the gradients of each form."""
    import jax

    def both(form: Form, *arrays):
        value, pull = jax.vjp(form, *arrays)
        return value, pull(value)

    compiled = {name: jax.jit(partial(both, form)) for name, form in forms.items()}
    placed, found = jax.device_put(list(arrays)), {name: [] for name in forms}
    for call in compiled.values():
        jax.block_until_ready(call(*placed))
    for _ in range(rounds):
        for name, call in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(call(*placed))
            found[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(times) for name, times in found.items()}


def convolutions(rounds: int) -> dict[str, tuple[str, dict[str, float]]]:
    """Return the chosen form and the milliseconds of all forms, for each shape."""
    from fmodels.nn import convolution

    rng, found = np.random.default_rng(0), {}
    for name, (batch, size, channels, features, window, stride, groups) in CONVOLUTIONS.items():
        image = rng.normal(size=(batch, size, size, channels)).astype(np.float32)
        kernel = rng.normal(size=(window, window, channels // groups, features)).astype(np.float32)
        strides, zeros = (stride, stride), [(window // 2, window // 2)] * 2
        forms = {"direct": partial(convolution.convolve_directly, stride=strides, zeros=zeros, groups=groups)}
        if groups == 1:
            forms["product"] = partial(convolution.convolve_by_product, stride=strides, zeros=zeros)
        else:
            forms["slices"] = partial(convolution.depthwise_by_slices, stride=strides, zeros=zeros)
        chosen = partial(convolution.convolve, stride=strides, padding=window // 2, groups=groups)
        found[name] = (same(chosen, forms, image, kernel), timed(forms, (image, kernel), rounds))
    return found


def pools(rounds: int) -> dict[str, tuple[str, dict[str, float]]]:
    from fmodels.nn import convolution

    rng, found = np.random.default_rng(0), {}
    for name, (batch, size, channels, window, stride) in POOLS.items():
        image = rng.normal(size=(batch, size, size, channels)).astype(np.float32)
        options = {"window": (window, window), "stride": (stride, stride)}
        forms = {
            "direct": partial(convolution.max_pool_directly, **options, zeros=[(0, 0), (0, 0)]),
            "slices": partial(convolution.max_pool_by_slices, **options, zeros=[(0, 0), (0, 0)]),
        }
        found[name] = (same(partial(convolution.max_pool, **options), forms, image), timed(forms, (image,), rounds))
    return found


def same(chosen: Form, forms: Mapping[str, Form], *arrays: np.ndarray) -> str:
    """Return the name of the form that has the program of `chosen`."""
    import jax

    text = lambda form: str(jax.make_jaxpr(lambda *arrays: form(*arrays))(*arrays))
    return next(name for name, form in forms.items() if text(form) == text(chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    keep_freed_memory()
    import jax

    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}; value and gradients, median ms of {options.rounds}")
    print(f"{'':34}{'direct':>10}{'product':>10}{'slices':>10}")
    for name, (chosen, times) in {**convolutions(options.rounds), **pools(options.rounds)}.items():
        cells = (
            f"{times[form]:.2f}{'*' * (form == chosen)}" if form in times else "" for form in ("direct", "product", "slices")
        )
        print(f"{name:34}" + "".join(f"{cell:>10}" for cell in cells))


if __name__ == "__main__":
    main()
