"""Position encodings against the formulas of their papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmodels.nn.positions import RelativeBias, alibi, rotary, sinusoidal


def test_sinusoidal_matches_its_formula():
    positions_BT, width = np.array([[0, 1, 2, 3, 40], [7, 6, 5, 100, 511]]), 10
    want = np.zeros((2, 5, width))
    for i in range(width // 2):  # Vaswani et al. 2017, §3.5
        want[..., 2 * i] = np.sin(positions_BT / 10_000 ** (2 * i / width))
        want[..., 2 * i + 1] = np.cos(positions_BT / 10_000 ** (2 * i / width))
    np.testing.assert_allclose(sinusoidal(jnp.asarray(positions_BT), width), want, rtol=0, atol=1e-4)


def test_rotary_logits_depend_on_distance_only():
    q_H, k_H = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    x_BTNH = jnp.asarray(np.broadcast_to(np.stack([q_H, k_H]), (1, 12, 2, 8)))
    q_TH, k_TH = np.asarray(rotary(x_BTNH, jnp.arange(12)[None]))[0].swapaxes(0, 1)
    logits_TT = q_TH @ k_TH.T
    for offset in range(-11, 12):
        diagonal = np.diagonal(logits_TT, offset)
        np.testing.assert_allclose(diagonal, np.full_like(diagonal, diagonal[0]), rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits_TT[0, 0], q_H @ k_H, rtol=0, atol=1e-5)
    assert np.ptp(logits_TT[0]) > 0.1, "distances differ"


def test_rotary_rotates_pairs_across_halves():
    x_BTNH = np.random.default_rng(0).normal(size=(2, 5, 3, 6)).astype(np.float32)
    positions_BT = np.array([[0, 1, 2, 3, 4], [9, 8, 300, 6, 5]])
    y_BTNH = np.asarray(rotary(jnp.asarray(x_BTNH), jnp.asarray(positions_BT)))
    angle = positions_BT[:, :, None, None] * 10_000.0 ** (-2 * np.arange(3) / 6)  # Su et al. 2021, §3.2.2
    pairs, turned = (z[..., :3] + 1j * z[..., 3:] for z in (x_BTNH, y_BTNH))
    np.testing.assert_allclose(turned, pairs * np.exp(1j * angle), rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(y_BTNH, axis=-1), np.linalg.norm(x_BTNH, axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(y_BTNH[0, 0], x_BTNH[0, 0])


@pytest.mark.parametrize(
    ("heads", "exponents"),
    [
        (8, [1, 2, 3, 4, 5, 6, 7, 8]),  # Press et al. 2022, §3: 1/2, 1/4, …, 1/256
        (12, [1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5]),  # the authors' code: all 8 of 8 heads, then every other one of 16
        (1, [8]),
        (3, [4, 8, 2]),
    ],
)
def test_alibi_is_linear_in_the_distance(heads, exponents):
    bias_NTT = alibi(heads, np.arange(6), np.arange(6))[0]
    distance_TT = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    want = -(0.5 ** np.array(exponents))[:, None, None] * distance_TT
    np.testing.assert_allclose(bias_NTT, want, rtol=1e-6)


def bucket_of_t5(offset: int, buckets: int, max_distance: int) -> int:
    """Return the bucket of `offset` = key - query (Raffel et al. 2020, §2.1, bidirectional), in integer arithmetic.

    From `exact` on, bucket exact + k starts at distance / exact = (max_distance / exact) ** (k / rest)."""
    one_way, distance = buckets // 2, abs(offset)
    exact = one_way // 2
    rest = one_way - exact
    bucket = distance
    if distance >= exact:
        reached = [k for k in range(rest) if distance**rest * exact**k >= max_distance**k * exact**rest]
        bucket = exact + max(reached)
    return bucket + one_way * (offset > 0)


@pytest.mark.parametrize(("buckets", "max_distance", "length"), [(32, 128, 300), (16, 20, 50), (32, 128, 1)])
def test_relative_buckets_match_t5(buckets, max_distance, length):
    table = np.outer(np.arange(buckets), [1, -1]).astype(np.float32)  # the bias of each bucket is its index
    bias_NTT = RelativeBias(2, False, buckets, max_distance).apply({"params": {"embedding": table}}, *2 * [np.arange(length)])[0]
    bucket_of = {offset: bucket_of_t5(offset, buckets, max_distance) for offset in range(-length, length)}
    want_TT = np.array([[bucket_of[key - query] for key in range(length)] for query in range(length)])
    np.testing.assert_array_equal(bias_NTT, np.stack([want_TT, -want_TT]))


def test_relative_bias_gradient_sums_over_each_bucket():
    module, length = RelativeBias(3), 20
    draw = np.random.default_rng(0).normal
    table, g_NTT = (draw(size=shape).astype(np.float32) for shape in ((32, 3), (3, length, length)))
    loss = lambda table: (module.apply({"params": {"embedding": table}}, *2 * [np.arange(length)])[0] * g_NTT).sum()
    want = np.zeros((32, 3))
    for query in range(length):
        for key in range(length):
            want[bucket_of_t5(key - query, 32, 128)] += g_NTT[:, query, key]
    np.testing.assert_allclose(jax.grad(loss)(table), want, rtol=0, atol=1e-4)
