"""Convolutions, pooling and batch norm against direct sums, and their forms against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmodels.axes import Layout, traced_for
from fmodels.nn import convolution
from fmodels.nn.convolution import BatchNorm, Conv, average_pool, convolve, max_pool, paddings
from fmodels.nn.layers import DropPath

# Size of the image, channels in and out, window, stride, padding, groups.
CASES = [
    ((7, 6), 3, 4, (3, 3), (1, 1), "same", 1),
    ((7, 6), 3, 4, (3, 3), (2, 2), "same", 1),
    ((8, 6), 3, 4, (3, 2), (2, 1), "valid", 1),
    ((8, 9), 5, 4, (5, 5), (2, 2), (2, 2), 1),
    ((9, 8), 6, 4, (1, 7), (1, 1), (0, 3), 1),
    ((4, 4), 3, 4, (1, 1), (2, 2), 0, 1),
    ((12, 12), 4, 4, (3, 3), (1, 1), 1, 4),
    ((9, 9), 4, 4, (5, 5), (2, 2), 2, 4),
    ((9, 9), 4, 6, (3, 3), (1, 1), 1, 2),
    ((2, 2), 8, 8, (3, 3), (1, 1), 1, 1),
]


def direct_sum(x, kernel, stride, zeros, groups):
    """Return the convolution, window by window, in float64."""
    x = np.pad(np.asarray(x, np.float64), [(0, 0), *zeros, (0, 0)])
    kernel, (height, width, each, features) = np.asarray(kernel, np.float64), kernel.shape
    rows, columns = (x.shape[1] - height) // stride[0] + 1, (x.shape[2] - width) // stride[1] + 1
    out = np.zeros((len(x), rows, columns, features))
    for i in range(rows):
        for j in range(columns):
            window = x[:, i * stride[0] : i * stride[0] + height, j * stride[1] : j * stride[1] + width]
            for f in range(features):
                first = f * groups // features * each
                out[:, i, j, f] = (window[..., first : first + each] * kernel[..., f]).sum((1, 2, 3))
    return out


def arrays(size, channels, features, window, groups):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, channels)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(rng.normal(size=(*window, channels // groups, features)).astype(np.float32))


@pytest.mark.parametrize(("size", "channels", "features", "window", "stride", "padding", "groups"), CASES)
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_convolutions_are_direct_sums(size, channels, features, window, stride, padding, groups, platform):
    x, kernel = arrays(size, channels, features, window, groups)
    with traced_for(Layout(platform)):
        found = convolve(x, kernel, stride, padding, groups)
    wanted = direct_sum(x, kernel, stride, paddings(size, window, stride, padding), groups)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "channels", "features", "window", "stride", "padding", "groups"), CASES)
def test_all_forms_of_a_convolution_agree(size, channels, features, window, stride, padding, groups):
    x, kernel = arrays(size, channels, features, window, groups)
    zeros = paddings(size, window, stride, padding)
    forms = {"directly": lambda x, kernel: convolution.convolve_directly(x, kernel, stride, zeros, groups)}
    if groups == 1:
        forms["product"] = lambda x, kernel: convolution.convolve_by_product(x, kernel, stride, zeros)
    elif groups == channels == features:
        forms["slices"] = lambda x, kernel: convolution.depthwise_by_slices(x, kernel, stride, zeros)
    agree(forms, x, kernel)


def agree(forms, *inputs):
    """Assert that functions have the same values and gradients."""
    rng = np.random.default_rng(1)
    wanted = None
    for form in forms.values():
        value, pull = jax.vjp(form, *inputs)
        found = (value, *pull(jnp.asarray(rng.normal(size=value.shape), jnp.float32)))
        rng = np.random.default_rng(1)
        wanted = wanted or found
        for x, y in zip(found, wanted, strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * max(1, float(jnp.abs(y).max())))


POOLS = [((8, 6), 2, 2, 0), ((7, 9), 3, 2, 1), ((7, 9), 3, 2, 0), ((6, 6), 3, 1, 1), ((7, 8), (2, 3), (1, 2), "same")]


@pytest.mark.parametrize(("size", "window", "stride", "padding"), POOLS)
def test_pooling_is_a_direct_maximum_or_mean(size, window, stride, padding):
    x = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
    (height, width), (down, right) = convolution.pair(window), convolution.pair(stride)
    zeros = paddings(size, (height, width), (down, right), padding)
    rows = (size[0] + sum(zeros[0]) - height) // down + 1
    columns = (size[1] + sum(zeros[1]) - width) // right + 1

    def windows(value):
        full = np.pad(x, [(0, 0), *zeros, (0, 0)], constant_values=value)
        part = lambda i, j: full[:, i * down : i * down + height, j * right : j * right + width]
        return [[part(i, j) for j in range(columns)] for i in range(rows)]

    largest = np.stack([np.stack([part.max((1, 2)) for part in row], 1) for row in windows(-np.inf)], 1)
    means = np.stack([np.stack([part.mean((1, 2)) for part in row], 1) for row in windows(0)], 1)
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), window, stride, padding), largest)
    np.testing.assert_allclose(average_pool(jnp.asarray(x), window, stride, padding), means, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("size", "window", "stride", "padding"), POOLS)
def test_all_forms_of_max_pooling_agree_even_on_ties(size, window, stride, padding):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 3, (2, *size, 3)), jnp.float32)
    window, stride = convolution.pair(window), convolution.pair(stride)
    zeros = paddings(size, window, stride, padding)
    forms = {form: lambda x, form=form: form(x, window, stride, zeros) for form in (
        convolution.max_pool_directly, convolution.max_pool_by_slices)}  # fmt: skip
    agree(forms, x)


def test_output_sizes_follow_stride_and_padding():
    """Sizes (n + 2 p - k) / s + 1, rounded down."""
    x = jnp.zeros((1, 28, 28, 1))
    size = lambda window, stride, padding: convolve(x, jnp.zeros((window, window, 1, 2)), stride, padding).shape[1:3]
    assert size(3, 1, "valid") == (26, 26)
    assert size(5, 1, 2) == (28, 28)
    assert size(3, 2, 1) == (14, 14)
    assert size(7, 3, 0) == (8, 8)
    assert size(3, 2, "same") == (14, 14)
    assert max_pool(x, 2).shape == (1, 14, 14, 1)
    assert max_pool(x, 3, 2).shape == (1, 13, 13, 1)


def test_a_window_larger_than_the_image_is_an_error():
    with pytest.raises(ValueError, match=r"an image or feature map of \[4, 4\] is smaller than a window of \[5, 5\]"):
        convolve(jnp.zeros((1, 4, 4, 1)), jnp.zeros((5, 5, 1, 2)), padding="valid")
    with pytest.raises(ValueError, match="is smaller than a window"):
        max_pool(jnp.zeros((1, 1, 4, 1)), 2)


def test_the_bias_of_a_convolution_is_added_to_each_channel():
    layer = Conv(2, use_bias=True)
    params = {"kernel": jnp.zeros((3, 3, 1, 2)), "bias": jnp.asarray([1.0, -2.0])}
    out = layer.apply({"params": params}, jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(out, np.broadcast_to([1.0, -2.0], (1, 2, 2, 2)))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_batch_norm_uses_the_batch_in_training_and_running_statistics_in_evaluation(platform):
    x = np.random.default_rng(0).normal(3, 2, (4, 5, 6, 3)).astype(np.float32)
    layer = BatchNorm(momentum=0.75, epsilon=1e-3)
    stats = {"mean": jnp.asarray([1.0, 2.0, 3.0]), "var": jnp.asarray([0.5, 1.0, 2.0])}
    params = {"scale": jnp.asarray([1.0, 2.0, 0.5]), "bias": jnp.asarray([0.0, 1.0, -1.0])}
    variables = {"params": params, "batch_stats": stats}
    with traced_for(Layout(platform)):
        trained, new = layer.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
        evaluated = layer.apply(variables, jnp.asarray(x), train=False)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    normed = lambda mean, var: (x - mean) / np.sqrt(var + 1e-3) * params["scale"] + params["bias"]
    np.testing.assert_allclose(trained, normed(mean, var), rtol=0, atol=1e-5)
    np.testing.assert_allclose(evaluated, normed(stats["mean"], stats["var"]), rtol=0, atol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.75 * stats["mean"] + 0.25 * mean, rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.75 * stats["var"] + 0.25 * var, rtol=1e-5)


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
    x = jnp.ones((4000, 2, 3))
    layer = DropPath(0.25)
    out = np.asarray(layer.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)}))
    kept = out[:, 0, 0] > 0
    np.testing.assert_array_equal(out, np.where(kept[:, None, None], np.float32(1 / 0.75), 0) * np.ones((1, 2, 3), np.float32))
    assert abs(kept.mean() - 0.75) < 0.03
    np.testing.assert_array_equal(layer.apply({}, x, train=False), x)
