"""Optimizers, schedules, and rules over parameter names."""

import math
from dataclasses import replace
from typing import get_args, get_type_hints

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fmodels.axes import split
from fmodels.bert import BertConfig
from fmodels.nn.transformer import stack_layers, unstack_layers
from train.errors import UserError
from train.optim import Optimizer, Rule, adam, clip, gated
from train.sharding import by_name

HINTS = get_type_hints(Optimizer)
OPTIMIZERS, SCHEDULES = get_args(HINTS["name"]), get_args(HINTS["schedule"])
LAYERS = 3


def plain(**changes) -> Optimizer:
    """Return an optimizer with updates equal to minus the gradient, unless `changes` alter it."""
    return Optimizer(**{"name": "sgd", "learning_rate": 1.0, "schedule": "constant", "clip_norm": None, **changes})


def toy_params() -> dict:
    draw = np.random.default_rng(0).normal
    shapes = {"embedding": (9, 4), "mlp": {"kernel": (4, 6), "bias": (6,)}, "norm": {"scale": (6,)}}
    return {
        "model": jax.tree.map(
            lambda shape: jnp.asarray(draw(size=shape), jnp.float32), shapes, is_leaf=lambda x: isinstance(x, tuple)
        )
    }


def first_update(optimizer: Optimizer, params, gradients=None):
    tx = optimizer.build(params, 100)
    update = jax.jit(lambda gradients, params: tx.update(gradients, tx.init(params), params, good=True)[0])
    return update(jax.tree.map(jnp.ones_like, params) if gradients is None else gradients, params)


def arrays(tree) -> dict[str, np.ndarray]:
    return {name: np.asarray(leaf) for name, leaf in by_name(tree).items()}


@pytest.mark.parametrize(("name", "schedule"), [*((n, "constant") for n in OPTIMIZERS), *(("adamw", s) for s in SCHEDULES)])
def test_every_optimizer_and_schedule_lowers_a_loss(name, schedule):
    steps = 40
    rate = {"sgd": 0.3, "momentum": 0.05, "rmsprop": 0.01}.get(name, 0.03)
    optimizer = Optimizer(name=name, schedule=schedule, learning_rate=rate, warmup_steps=5)
    params, target = toy_params(), jax.tree.map(lambda x: x[::-1] + 0.1, toy_params())
    tx = optimizer.build(params, steps)
    loss = lambda params: sum(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.square(x - y).sum(), params, target)))

    @jax.jit
    def train(params):
        def step(carry, _):
            params, state = carry
            value, gradients = jax.value_and_grad(loss)(params)
            updates, state = tx.update(gradients, state, params, good=True)
            return (jax.tree.map(jnp.add, params, updates), state), value

        return jax.lax.scan(step, (params, tx.init(params)), length=steps)

    (moved, _), losses = train(params)
    assert losses[-1] < 0.7 * losses[0]
    for (leaf, before), after in zip(arrays(params).items(), jax.tree.leaves(moved), strict=True):
        assert (before != after).all(), leaf


WARMUP, STEPS, PEAK, FINAL = 10, 51, 0.5, 0.1


@pytest.mark.parametrize(
    ("schedule", "middle", "before", "last"),
    [
        ("constant", PEAK, PEAK, PEAK),
        ("linear", PEAK * (1 + FINAL) / 2, PEAK * (1 - (1 - FINAL) * 39 / 40), PEAK * FINAL),
        ("cosine", PEAK * (1 + FINAL) / 2, PEAK * (FINAL + (1 - FINAL) * (1 + math.cos(math.pi * 39 / 40)) / 2), PEAK * FINAL),
        ("rsqrt", PEAK * math.sqrt(10 / 30), PEAK * math.sqrt(10 / 49), PEAK * math.sqrt(10 / 50)),
        ("wsd", PEAK, PEAK * (1 - (1 - FINAL) * 9 / 10), PEAK * FINAL),
    ],
)
def test_schedules_match_their_formulas(schedule, middle, before, last):
    """At the first update, the end of the warmup, the middle of the decay, the update before the last, and the last."""
    optimizer = Optimizer(schedule=schedule, learning_rate=PEAK, warmup_steps=WARMUP, final_learning_rate=FINAL, decay_share=0.2)
    rate = optimizer.rate(STEPS)
    found = [float(rate(step)) for step in (0, WARMUP - 1, WARMUP, WARMUP + 20, STEPS - 2, STEPS - 1)]
    assert found == pytest.approx([PEAK / 11, PEAK * 10 / 11, PEAK, middle, before, last], rel=1e-5)
    assert float(replace(optimizer, warmup_steps=0).rate(STEPS)(0)) == pytest.approx(PEAK)
    assert SCHEDULES == ("constant", "linear", "cosine", "rsqrt", "wsd")


def test_wsd_is_constant_until_decay_share():
    rate = Optimizer(schedule="wsd", learning_rate=PEAK, decay_share=0.2).rate(STEPS)
    assert {float(rate(step)) for step in range(41)} == {PEAK}
    np.testing.assert_allclose([rate(step) for step in range(40, 51)], np.linspace(PEAK, 0, 11), atol=1e-7)


@pytest.mark.parametrize("warmup", [0, 3, 18, 19])
@pytest.mark.parametrize("steps", [2, 20, 21])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "wsd"])
def test_the_last_step_has_the_final_learning_rate(schedule, steps, warmup):
    """Unless the warmup leaves no step to decay."""
    if warmup < steps - 1:
        rate = Optimizer(schedule=schedule, learning_rate=PEAK, warmup_steps=warmup, final_learning_rate=FINAL).rate(steps)
        assert float(rate(steps - 1)) == pytest.approx(PEAK * FINAL)
        assert float(rate(steps - 2)) > PEAK * FINAL


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_of_one_step_has_the_peak_learning_rate(schedule):
    assert float(Optimizer(schedule=schedule, learning_rate=PEAK).rate(1)(0)) == pytest.approx(PEAK)


def test_updates_follow_the_schedule():
    params = {"w": jnp.zeros(())}
    optimizer = plain(schedule="linear", warmup_steps=4)
    tx = optimizer.build(params, 12)
    state, found = tx.init(params), []
    for _ in range(12):
        updates, state = tx.update({"w": jnp.ones(())}, state, params, good=True)
        found.append(-float(updates["w"]))
    assert found == pytest.approx([float(optimizer.rate(12)(step)) for step in range(12)])


def test_gradients_are_clipped_by_global_norm():
    params = toy_params()
    gradients = jax.tree.map(lambda x: 3 * x, params)
    norm = math.sqrt(sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(gradients)))
    for limit, scale in ((0.25, 0.25 / norm), (2 * norm, 1.0)):
        clipped = first_update(plain(clip_norm=limit), params, gradients)
        jax.tree.map(lambda u, g, s=scale: np.testing.assert_allclose(-u, s * g, rtol=1e-5), clipped, gradients)


# Tests on the parameter trees of real models.


def bert_params(scan: bool = False) -> dict:
    """Return parameters of a BERT with relative bias and a head; the values are the same scanned or not."""
    config = BertConfig(
        layers=LAYERS, width=8, heads=2, hidden=12, vocab_size=20, max_length=8, norm_position="pre", position="relative"
    )
    batch = {"tokens": jnp.zeros((1, 8), jnp.int32)}
    shapes, _ = split(jax.eval_shape(config.build().init, jax.random.key(0), batch)[0])
    rng = np.random.default_rng(0)
    model = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), shapes)
    if scan:
        model = {**model, "encoder": stack_layers(model["encoder"])}
    return {"model": model, "head": {"classifier": {"dense": {"kernel": jnp.ones((8, 3)), "bias": jnp.zeros(3)}}}}


def unscanned(params: dict) -> dict:
    return {**params, "model": {**params["model"], "encoder": unstack_layers(params["model"]["encoder"])}}


GRADIENTS = [{"w": jnp.float32([3.0, -4.0, 1e-6]), "b": jnp.float32([[12.0]])}, {"w": jnp.zeros(3), "b": -jnp.ones((1, 1))}]


def test_adam_matches_optax():
    ours, theirs = adam(0.9, 0.999, 1e-8), optax.scale_by_adam(0.9, 0.999, 1e-8)
    state, reference = ours.init(GRADIENTS[0]), theirs.init(GRADIENTS[0])
    for gradients in GRADIENTS * 3:
        found, state = ours.update(gradients, state, good=True)
        want, reference = theirs.update(gradients, reference)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), (found, state), (want, reference))


@pytest.mark.parametrize("transformation", [adam(0.9, 0.999, 1e-8), gated(optax.trace(0.9))], ids=["adam", "momentum"])
def test_a_refused_update_leaves_the_state_unchanged(transformation):
    state = transformation.update(GRADIENTS[0], transformation.init(GRADIENTS[0]), good=True)[1]
    bad = jax.tree.map(lambda g: g * jnp.nan, GRADIENTS[0])
    after = jax.jit(transformation.update)(bad, state, good=jnp.asarray(False))[1]
    jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.parametrize("limit", [1.0, 13.0, 100.0])
def test_clip_matches_optax(limit):
    (found, _), (want, _) = (t.update(GRADIENTS[0], t.init(None)) for t in (clip(limit), optax.clip_by_global_norm(limit)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, want)


@pytest.mark.parametrize("scan", [False, True])
def test_biases_and_norms_do_not_decay(scan):
    params = bert_params(scan)
    updates = arrays(first_update(plain(weight_decay=0.1), params, jax.tree.map(jnp.zeros_like, params)))
    for name, before in arrays(params).items():
        decays = name.endswith(("/kernel", "/embedding")) and "relative_bias" not in name
        assert decays != (name.endswith("/bias") or "norm" in name or "relative_bias" in name), name
        np.testing.assert_allclose(updates[name], -0.1 * before if decays else 0 * before, rtol=1e-6, err_msg=name)


def test_decay_is_decoupled():
    """Adam does not scale the weight decay (Loshchilov and Hutter 2019)."""
    params = toy_params()
    gradients = jax.tree.map(lambda x: 1e-3 * x, params)
    kernel = lambda decay: first_update(Optimizer(learning_rate=0.5, schedule="constant", weight_decay=decay), params, gradients)[
        "model"
    ]["mlp"]["kernel"]
    np.testing.assert_allclose(kernel(0.1) - kernel(0.0), -0.05 * params["model"]["mlp"]["kernel"], rtol=1e-4, atol=1e-6)


def test_first_matching_rule_applies():
    rules = (
        Rule(pattern=r".*/kernel", learning_rate=2.0),
        Rule(pattern=r"model/mlp/.*", learning_rate=3.0),
        Rule(pattern=r"model/norm", learning_rate=99.0),  # matches no full name
        Rule(pattern=r".*", learning_rate=0.5),
    )
    updates = arrays(first_update(plain(rules=rules), toy_params()))
    found = {name: set(-update.ravel()) for name, update in updates.items()}
    assert found == {"model/embedding": {0.5}, "model/mlp/kernel": {2.0}, "model/mlp/bias": {3.0}, "model/norm/scale": {0.5}}


def test_rules_scale_weight_decay():
    rules = (Rule(pattern=r".*/kernel", weight_decay=0.5, learning_rate=2.0), Rule(pattern=r".*"))
    params = toy_params()
    updates = first_update(plain(rules=rules, weight_decay=0.1), params, jax.tree.map(jnp.zeros_like, params))["model"]
    np.testing.assert_allclose(updates["mlp"]["kernel"], -0.1 * params["model"]["mlp"]["kernel"], rtol=1e-6)
    np.testing.assert_allclose(updates["mlp"]["bias"], -0.1 * params["model"]["mlp"]["bias"], rtol=1e-6)


def test_parameters_without_a_rule_are_errors():
    rules = (Rule(pattern=r".*/(kernel|bias)"), Rule(pattern=r".*/scale"))
    with pytest.raises(
        UserError, match=r"^optimizer.rules: no rule matches the parameter model/embedding; add a last rule with pattern '\.\*'$"
    ):
        plain(rules=rules).build(toy_params(), 10)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_parameters_do_not_change_and_have_no_moments(name):
    params, frozen = toy_params(), Rule(pattern=r"model/(embedding|mlp/kernel)", freeze=True)
    optimizer = Optimizer(name=name, weight_decay=0.0 if name == "adam" else 0.1, rules=(frozen, Rule(pattern=r".*")))
    tx = optimizer.build(params, 10)
    state, moved = tx.init(params), params
    for _ in range(2):
        updates, state = tx.update(jax.tree.map(jnp.ones_like, params), state, moved, good=True)
        moved = jax.tree.map(jnp.add, moved, updates)
    before, after = arrays(params), arrays(moved)
    for leaf in before:
        is_frozen = leaf in ("model/embedding", "model/mlp/kernel")
        assert (before[leaf].tobytes() == after[leaf].tobytes()) == is_frozen, leaf
    shapes = {leaf.shape for leaf in jax.tree.leaves(state)}
    assert shapes.isdisjoint({(9, 4), (4, 6)})
    assert (6,) in shapes or name == "sgd", "the other parameters have moments"


@pytest.mark.parametrize("scan", [False, True], ids=["loop", "scan"])
def test_layer_decay(scan):
    """Factors are d for the top layer, d^2 for the next, …, 1 for heads and final norms, and the smallest for embeddings."""
    params, d = bert_params(scan), 0.5
    updates = first_update(plain(layer_decay=d), params)
    for name, update in arrays(unscanned(updates) if scan else updates).items():
        if "/layer_" in name:
            above = LAYERS - int(name.split("/layer_")[1][0])
        else:
            above = LAYERS + 1 if "embedding" in name else 0
        np.testing.assert_allclose(update, np.full(update.shape, -(d**above)), rtol=1e-6, err_msg=name)
    assert arrays(updates)["model/encoder/final_norm/scale"][0] == arrays(updates)["head/classifier/dense/kernel"][0, 0] == -1


def test_layer_decay_needs_layers():
    with pytest.raises(UserError, match=r"optimizer.layer_decay is 0.5, but the model has no numbered layers; set it to 1"):
        plain(layer_decay=0.5).build(toy_params(), 10)


def test_muon_updates_kernels_and_adam_the_rest():
    draw = lambda *shape: jnp.asarray(np.random.default_rng(shape).normal(size=shape), jnp.float32)
    layers = {f"layer_{i}": {"mlp": {"kernel": draw(8, 5) + i, "bias": draw(5)}} for i in range(2)}
    params = {"token_embedding": {"embedding": draw(7, 4)}, "stem": {"kernel": draw(3, 3, 1, 4)}, "encoder": layers}
    scanned = {**params, "encoder": stack_layers(layers)}
    optimizer = plain(name="muon")
    moved = first_update(optimizer, params, params)
    nesterov = optax.scale_by_adam(optimizer.b1, optimizer.b2, optimizer.eps, nesterov=True)
    adam = arrays(nesterov.update(params, nesterov.init(params), params)[0])
    for name, update in arrays(moved).items():
        if "mlp/kernel" in name:
            singular = np.linalg.svd(update, compute_uv=False) / (0.2 * math.sqrt(8))
            assert singular.min() > 0.6 and singular.max() < 1.3, f"{name}: orthogonal up to the error of Newton-Schulz"
            assert np.corrcoef(-update.ravel(), arrays(params)[name].ravel())[0, 1] > 0.5, "updates follow the gradient"
        else:
            np.testing.assert_allclose(update, -adam[name], rtol=1e-5, err_msg=name)

    by_layer = arrays(moved | {"encoder": unstack_layers(first_update(optimizer, scanned, scanned)["encoder"])})
    for name, update in arrays(moved).items():
        np.testing.assert_allclose(by_layer[name], update, rtol=0, atol=1e-5, err_msg=f"{name}: each scanned layer is a matrix")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be greater than 0, not 0.0"),
        ({"learning_rate": math.nan}, "learning_rate must be greater than 0, not nan"),
        ({"eps": -1e-8}, "eps must be greater than 0, not -1e-08"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more, not -1"),
        ({"weight_decay": -0.1}, "weight_decay must be 0 or more, not -0.1"),
        ({"weight_decay": math.nan}, "weight_decay must be 0 or more, not nan"),
        ({"decay_share": 0.0}, r"decay_share must be in \(0, 1\], not 0.0"),
        ({"layer_decay": 1.1}, r"layer_decay must be in \(0, 1\], not 1.1"),
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), not 1.0"),
        ({"b2": -0.1}, r"b2 must be in \[0, 1\), not -0.1"),
        ({"final_learning_rate": 2.0}, r"final_learning_rate must be in \[0, 1\] \(a fraction of the peak\), not 2.0"),
        ({"clip_norm": 0.0}, "clip_norm must be greater than 0, or None for no clipping, not 0.0"),
        ({"clip_norm": math.nan}, "clip_norm must be greater than 0, or None for no clipping, not nan"),
        (
            {"name": "adam", "weight_decay": 0.1},
            "weight_decay 0.1 is not supported by adam: choose adamw or optimizer.l2",
        ),
    ],
    ids=str,
)
def test_invalid_optimizer_fields_are_errors(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Optimizer(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pattern": "("}, r"pattern '\(' is not a regular expression: .*"),
        ({"pattern": ".*", "learning_rate": -1.0}, "learning_rate must be 0 or more, not -1.0"),
        ({"pattern": ".*", "weight_decay": math.nan}, "weight_decay must be 0 or more, not nan"),
    ],
    ids=str,
)
def test_invalid_rule_fields_are_errors(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Rule(**fields)


# Two steps from (1, -2) with the gradients below and a learning rate of 0.1, by the formulas in print.
TWO_GRADIENTS = (np.array([0.5, -1.0]), np.array([0.25, 3.0]))


def by_hand(name: str) -> np.ndarray:
    w, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for t, g in enumerate(TWO_GRADIENTS, 1):
        if name == "sgd":
            w = w - 0.1 * g
        elif name == "momentum":  # Sutskever et al. 2013, eq. 1 and 2, with the learning rate outside
            m = 0.9 * m + g
            w = w - 0.1 * m
        elif name == "rmsprop":  # Hinton, lecture 6e
            v = 0.99 * v + 0.01 * g**2
            w = w - 0.1 * g / (np.sqrt(v) + 1e-8)
        else:  # Kingma and Ba 2015, algorithm 1
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
            w = w - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    return w


@pytest.mark.parametrize("name", ["sgd", "momentum", "rmsprop", "adam"])
def test_steps_follow_the_formulas_in_print(name):
    params = {"model": {"kernel": jnp.array([1.0, -2.0])}}
    tx = plain(name=name, learning_rate=0.1, b2=0.99).build(params, 10)
    state = tx.init(params)
    for gradient in TWO_GRADIENTS:
        updates, state = tx.update({"model": {"kernel": jnp.asarray(gradient)}}, state, params, good=jnp.array(True))
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params["model"]["kernel"], by_hand(name), rtol=2e-5)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "rmsprop"])
def test_l1_and_l2_are_terms_of_the_loss(name):
    """The update is that of the gradient of loss + l1 |w| + l2 w^2 / 2; biases have neither."""
    params = {"model": {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}}
    gradients = {"model": {"kernel": jnp.array([[0.5, 0.1]]), "bias": jnp.array([0.2])}}
    term = lambda params: 0.3 * jnp.abs(params["model"]["kernel"]).sum() + 0.2 * jnp.square(params["model"]["kernel"]).sum()
    together = jax.tree.map(jnp.add, gradients, jax.grad(term)(params))
    wanted = first_update(plain(name=name), params, together)
    found = first_update(plain(name=name, l1=0.3, l2=0.4), params, gradients)
    chex.assert_trees_all_close(found, wanted, rtol=1e-6)
