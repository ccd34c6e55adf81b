"""The train step: accumulation, precision, the guard, metrics, and a single compilation."""

import logging
import re
from dataclasses import dataclass, field, replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from data.images.labelled import Images
from data.text.language_modelling import Text
from fmodels.bert import BertConfig
from fmodels.convnet import ConvNetConfig
from tests.train.experiments import augmented, contrast, masked_patches, mobilenet, program, vit
from train import step as steps
from train.errors import UserError
from train.experiment import Experiment, Run, with_run
from train.objectives import Sums
from train.objectives.classification import Classification
from train.objectives.masked_lm import MaskedLM
from train.optim import Optimizer, Rule
from train.sharding import Mesh, by_name
from train.step import WARM_STEPS, Guard, Program, State, build


def shapes_of(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def one_device(experiment: Experiment, batch: dict) -> Program:
    return build(experiment, shapes_of(batch), Mesh().build(jax.devices()[:1]))


def copy(tree):
    """Copy a state, since the step donates its argument."""
    return jax.tree.map(jnp.copy, tree)


def assert_close(a, b, tolerance: float) -> None:
    """Compare leaves, with a tolerance relative to the largest entry of each."""

    def close(path, x, y):
        distance = np.abs(np.float64(x) - np.float64(y)).max() / max(np.abs(np.float64(y)).max(), 1e-3)
        assert distance <= tolerance, f"{jax.tree_util.keystr(path)} differs by {distance}"

    jax.tree_util.tree_map_with_path(close, a, b)


# A BERT on rows with different numbers of masked tokens, some not valid.

LENGTH, ROWS = 24, 8
BERT = BertConfig(layers=1, width=16, heads=2, hidden=24, vocab_size=40, max_length=LENGTH, dropout=0.0, attention_dropout=0.0)


def bert(**run) -> Experiment:
    objective = MaskedLM(mask_rate=0.3, next_sentence=True, mask_id=4, random_ids=(5, 40))
    optimizer = Optimizer(name="sgd", learning_rate=0.5, schedule="constant")
    return Experiment(
        model=BERT, objective=objective, data=Text(layout="pairs", length=LENGTH), optimizer=optimizer, run=Run(**run)
    )


def ragged_batch() -> dict[str, np.ndarray]:
    rng, place = np.random.default_rng(0), np.arange(LENGTH)
    real = np.array([1, 22, 2, 20, 9, 22, 1, 22])[:, None]
    ordinary = (place >= 1) & (place <= real)
    return {
        "tokens": np.where(ordinary, rng.integers(5, 40, (ROWS, LENGTH)), 2).astype(np.int32),
        "words": np.where(ordinary, place, -1).astype(np.int32),
        "segments": (place > real // 2).astype(np.int32),
        "mask": place <= real + 1,
        "is_random": np.int32([0, 1, 1, 0, 1, 0, 1, 1]),
        "example": np.arange(ROWS, dtype=np.uint32),
        "valid": np.float32([1, 1, 1, 0, 1, 1, 1, 0]),  # the fourth of four microbatches has no valid row
    }


def random_state(program: Program, seed: int = 0) -> State:
    """Return an initial state with random parameters, without zeros and ones."""
    rng = np.random.default_rng(seed)
    draw = lambda leaf: jnp.asarray(rng.normal(0.1, 0.3, leaf.shape), jnp.float32)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), program.shapes)
    return replace(zeros, params=jax.tree.map(draw, program.shapes.params), guard=replace(zeros.guard, bad_step=jnp.int32(-1)))


def one_step(experiment: Experiment, batch: dict) -> tuple[State, State, dict]:
    """Return (state before, state after, metrics)."""
    program = one_device(experiment, batch)
    before = random_state(program)
    after, metrics = program.step(copy(before), batch)
    return before, after, metrics


@pytest.fixture(scope="module")
def plain():
    return one_step(bert(), ragged_batch())


def test_accumulation_does_not_change_the_update(plain):
    """Means are over the whole batch, though microbatches differ in their numbers of tokens and sentences."""
    before, after, metrics = plain
    assert max(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max(), before.params, after.params))) > 1e-2
    _, accumulated, accumulated_metrics = one_step(bert(accumulation=4), ragged_batch())
    assert_close(accumulated_metrics, metrics, 1e-6)
    assert_close(accumulated, after, 1e-6)


def test_compute_is_bfloat16_and_state_is_float32(plain):
    _, after, metrics = plain
    _, rounded, rounded_metrics = one_step(bert(precision="bf16"), ragged_batch())
    assert shapes_of(rounded) == shapes_of(after) and shapes_of(rounded_metrics) == shapes_of(metrics)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded.params)} == {jnp.dtype("float32")}
    ratio = lambda pair: float(np.divide(*pair))
    terms, rounded_terms = metrics["sums"].terms, rounded_metrics["sums"].terms
    for name in terms:
        assert terms[name][1] == rounded_terms[name][1], "counts are exact"
        assert 1e-6 < abs(ratio(rounded_terms[name]) / ratio(terms[name]) - 1) < 2e-2, "close but not equal"
    norms = (m["sums"].metrics["gradient_norm"] for m in (metrics, rounded_metrics))
    norm, rounded_norm = map(ratio, norms)
    assert rounded_norm == pytest.approx(norm, rel=5e-2)


# A tiny model and objective that can produce any gradient.


@dataclass(frozen=True)
class ToyModel:
    def build(self):
        return self

    def init(self, rng, batch):
        return {"a": jnp.ones(3), "b": jnp.ones(()), "c": jnp.ones(2)}, {"seen": jnp.zeros(())}

    def apply(self, params, state, batch, rng=None, train=False):
        return params, {"seen": state["seen"] + train}


@dataclass(frozen=True)
class ToyObjective:
    """Half the mean squared distance from a to x, plus sqrt(b y). For y = 0 only the gradient of b is NaN."""

    traced: list = field(default_factory=list, compare=False)

    def init(self, model, rng, batch):
        params, state = model.init(rng, batch)
        return {"model": params}, state

    def loss(self, apply, params, state, batch, rng, train):
        self.traced.append(train)
        out, state = apply(params["model"], state, batch, rng=rng, train=train)
        far = 0.5 * jnp.square(out["a"] - batch["x"]).sum(1)
        return Sums({"toy": (((far + jnp.sqrt(out["b"] * batch["y"])) * batch["valid"]).sum(), batch["valid"].sum())}, {}), state

    def predict(self, apply, params, state, batch):
        return {}


def toy(guard: Guard | None = None, **optimizer) -> Experiment:
    sgd = Optimizer(**{"name": "sgd", "learning_rate": 0.1, "schedule": "constant", "clip_norm": None, **optimizer})
    return Experiment(model=ToyModel(), objective=ToyObjective(), data=Images(), optimizer=sgd, run=Run(guard=guard or Guard()))


def toy_batch(x: float = 3.0, y: float = 1.0) -> dict[str, np.ndarray]:
    rows = np.ones(4, np.float32)
    return {"x": np.full((4, 3), x, np.float32), "y": y * rows, "valid": rows}


GOOD, NAN, INFINITE = toy_batch(), toy_batch(y=0.0), toy_batch(x=np.inf)


def run_toy(experiment: Experiment, batches: list[dict], start: State | None = None) -> tuple[Program, list[State], list[dict]]:
    """Return the program, all states, and the metrics of each step."""
    program = one_device(experiment, GOOD)
    states, metrics = [program.init() if start is None else start], []
    for batch in batches:
        state, more = program.step(copy(states[-1]), batch)
        states.append(state)
        metrics.append(more)
    return program, states, metrics


def same(a: State, b: State, *but: str) -> bool:
    """Whether two states agree, except in the fields `but`."""
    parts = ({name: value for name, value in vars(s).items() if name not in but} for s in (a, b))
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), *parts)))


def check_guard(program: Program, experiment: Experiment, metrics: dict) -> None:
    """Check the guard of a step as the loop does."""
    steps.check_guard(with_run(experiment, dir="runs/toy"), program, metrics["guard"])


@pytest.mark.parametrize(
    ("bad", "cause"),
    [(NAN, "the gradient of model/b is not finite"), (INFINITE, "the gradient of model/a is not finite")],
    ids=["one gradient", "the loss"],
)
def test_abort_preserves_the_state(bad, cause):
    experiment = toy()
    program, states, metrics = run_toy(experiment, [GOOD, GOOD, bad, GOOD, bad])
    assert not same(states[1], states[2], "step")
    for later in states[3:]:
        assert same(later, states[2], "step", "guard"), "no update from the bad step on"
    assert [int(state.step) for state in states] == [0, 1, 2, 3, 4, 5]
    for good in metrics[:2]:
        check_guard(program, experiment, good)
        assert int(good["guard"].bad_step) == -1
    for later in metrics[2:]:  # also if the loop checks some steps later
        assert int(later["guard"].bad_step) == 2
        with pytest.raises(UserError, match=f"^toy: step 3: {cause}; lower --optimizer.learning-rate"):
            check_guard(program, experiment, later)


def test_skip_counts_skipped_updates_and_continues():
    experiment = toy(Guard(policy="skip", limit=2), name="adamw", schedule="linear")
    batches = [INFINITE, GOOD, NAN, GOOD, INFINITE]
    program, states, metrics = run_toy(experiment, batches)
    for batch, before, after in zip(batches, states, states[1:], strict=False):
        assert same(before, after, "step", "guard") == (batch is not GOOD)
    assert [int(m["guard"].skipped) for m in metrics] == [1, 1, 2, 2, 3]
    assert [int(m["guard"].bad_step) for m in metrics] == [0, 0, 2, 2, 4]
    leaves = list(by_name(program.shapes.params))
    assert [leaves[int(metrics[i]["guard"].bad_leaf)] for i in (0, 2)] == ["model/a", "model/b"]
    for step in metrics[:4]:
        check_guard(program, experiment, step)
    with pytest.raises(UserError, match=r"^toy: 3 updates were skipped, more than run.guard.limit 2; the last at step 5: "):
        check_guard(program, experiment, metrics[4])

    _, clean, _ = run_toy(experiment, [GOOD, GOOD])
    assert same(states[5], clean[2], "step", "guard"), "skipped batches have no effect"
    assert float(states[5].guard.mean_norm) == float(clean[2].guard.mean_norm)


def test_a_spike_is_not_applied():
    """A spike is a gradient norm above a multiple of its running mean. Spikes are not detected in the first WARM_STEPS steps."""
    experiment = toy(Guard(policy="skip", spike=4.0), learning_rate=1e-6)
    norm = lambda x: np.sqrt(3 * (x - 1) ** 2 + 0.25)
    _, states, metrics = run_toy(experiment, [GOOD, toy_batch(x=100.0)] + [GOOD] * 2)
    assert [int(m["guard"].skipped) for m in metrics] == [0] * 4
    mean = 0.98 * (0.98 * (0.98 * norm(3) + 0.02 * norm(100)) + 0.02 * norm(3)) + 0.02 * norm(3)
    assert float(states[-1].guard.mean_norm) == pytest.approx(mean, rel=1e-4)

    warm = replace(states[-1], step=jnp.int32(WARM_STEPS))
    limit = 1 + np.sqrt(((4 * mean) ** 2 - 0.25) / 3)
    below, above = toy_batch(x=0.99 * limit), toy_batch(x=1.01 * limit)
    program, states, metrics = run_toy(experiment, [above, below], warm)
    assert same(states[0], states[1], "step", "guard") and not same(states[1], states[2], "step")
    assert float(states[1].guard.mean_norm) == float(warm.guard.mean_norm), "spikes do not change the mean"
    guards = [(int(m["guard"].skipped), int(m["guard"].bad_step), int(m["guard"].bad_leaf)) for m in metrics]
    assert guards == [(1, WARM_STEPS, -1)] * 2
    with pytest.raises(UserError, match=f"^toy: step {WARM_STEPS + 1}: the loss or the gradient norm is not finite, or spiked; "):
        check_guard(program, toy(), metrics[0])


def test_the_step_compiles_once_and_donates_its_state(caplog):
    experiment = toy(name="adamw")
    program = one_device(experiment, GOOD)
    state = program.init()
    experiment.objective.traced.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for _ in range(5):
            before = state
            state, _ = program.step(before, jax.device_put(GOOD, program.batch_sharding))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before)), "the state is donated"
    assert experiment.objective.traced == [True]
    assert sum("Finished XLA compilation of jit(step)" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("clip", [None, 0.5])
def test_metrics_include_the_gradient_norm_before_clipping(clip):
    _, _, (metrics,) = run_toy(toy(clip_norm=clip), [toy_batch(x=3.0)])
    gradient = np.sqrt(3 * 2.0**2 + 0.5**2)  # a: 1 - 3 in three entries; b: derivative of the square root, 0.5
    found = {name: float(np.divide(*ratio)) for name, ratio in metrics["sums"].metrics.items()}
    assert found == pytest.approx({"gradient_norm": gradient}, rel=1e-5)


# A convolutional network with batch statistics in its model state.


def test_batch_statistics_are_updated_and_used():
    """One convolution with batch norm, against SciPy's convolution and the formula of Ioffe and Szegedy 2015."""
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(6, 4, 4, 1)).astype(np.float32),
        "label": np.int32([0, 1, 2, 0, 1, 2]),
        "example": np.arange(6, dtype=np.uint32),
        "valid": np.ones(6, np.float32),
    }
    objective = Classification(classes=3, label_shares=(0.4, 0.3, 0.3))
    experiment = Experiment(model=ConvNetConfig(channels=(4,), convolutions=(1,)), objective=objective, data=Images())
    program = one_device(experiment, batch)
    before = random_state(program)
    old = {"norm": {"mean": jnp.float32([1, 2, 3, 4]), "var": jnp.float32([4, 3, 2, 1])}}
    before = replace(before, model_state={"batch_stats": {"stage_0_0": old}})
    after, metrics = program.step(copy(before), batch)

    def features(params) -> np.ndarray:
        kernel = np.asarray(params["model"]["stage_0_0"]["conv"]["kernel"])[:, :, 0]
        return np.stack([[correlate2d(x[..., 0], k, "same") for k in kernel.transpose(2, 0, 1)] for x in batch["image"]])

    def loss(params, mean, var) -> float:
        norm = jax.tree.map(np.asarray, params["model"]["stage_0_0"]["norm"])
        dense = jax.tree.map(np.asarray, params["head"]["classifier"]["dense"])
        shaped = lambda x: np.asarray(x)[:, None, None]
        x = (features(params) - shaped(mean)) / np.sqrt(shaped(var) + 1e-5) * shaped(norm["scale"]) + shaped(norm["bias"])
        scores = np.exp(np.maximum(x, 0).mean((2, 3)) @ dense["kernel"] + dense["bias"])
        return -np.log(scores[np.arange(6), batch["label"]] / scores.sum(1)).mean()

    x = features(before.params)
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
    assert np.divide(*metrics["sums"].terms["classification"]) == pytest.approx(loss(before.params, mean, var), rel=1e-5)
    found = after.model_state["batch_stats"]["stage_0_0"]["norm"]
    kept = {"mean": 0.9 * np.float32([1, 2, 3, 4]) + 0.1 * mean, "var": 0.9 * np.float32([4, 3, 2, 1]) + 0.1 * var}
    assert_close(found, kept, 1e-5)

    sums = program.evaluate(after.params, after.model_state, batch)
    assert np.divide(*sums.terms["classification"]) == pytest.approx(loss(after.params, **kept), rel=1e-5)


def cnn_step(pattern: str, **run) -> tuple[Program, State, State, dict, dict]:
    """Return (program, state before, state after, metrics, batch) of a step in which the parameters of `pattern` are frozen."""
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(1.0, 2.0, size=(8, 4, 4, 1)).astype(np.float32),
        "label": np.int32([0, 1, 2, 0, 1, 2, 0, 1]),
        "example": np.arange(8, dtype=np.uint32),
        "valid": np.ones(8, np.float32),
    }
    experiment = Experiment(
        model=ConvNetConfig(channels=(4, 4), convolutions=(1,)),
        objective=Classification(classes=3, label_shares=(0.4, 0.3, 0.3)),
        data=Images(),
        optimizer=Optimizer(rules=(Rule(pattern=pattern, freeze=True), Rule(pattern=".*")), schedule="constant"),
        run=Run(**run),
    )
    program = one_device(experiment, batch)
    state = program.init()
    filled = jax.tree.map(lambda leaf: jnp.linspace(0.5, 1.5, leaf.size), state.model_state)
    before = replace(random_state(program), model_state=filled)
    after, metrics = program.step(copy(before), batch)
    return program, before, after, metrics, batch


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_frozen_batch_norm_uses_and_keeps_its_statistics(accumulation):
    program, before, after, metrics, batch = cnn_step("model/.*", accumulation=accumulation)
    assert_close(after.model_state, before.model_state, 0)
    evaluated = program.evaluate(before.params, before.model_state, batch).terms["classification"]
    assert np.divide(*metrics["sums"].terms["classification"]) == pytest.approx(float(np.divide(*evaluated)), rel=1e-5)
    assert not np.array_equal(*(s.params["head"]["classifier"]["dense"]["bias"] for s in (before, after))), "the head learns"


def test_batch_norms_are_frozen_by_their_own_parameters():
    """Not by those of the convolution before them; other batch norms keep learning."""
    frozen = {
        "model/stage_0_0/.*": {"stage_0_0"},
        "model/stage_1_0/norm/.*": {"stage_1_0"},
        "model/.*/kernel": set(),
        "model/.*/scale": set(),
    }
    for pattern, stages in frozen.items():
        _, before, after, _, _ = cnn_step(pattern)
        old, new = (by_name(state.model_state) for state in (before, after))
        kept = {name.split("/")[1] for name in old if np.array_equal(old[name], new[name])}
        assert kept == stages, pattern


def test_other_model_state_of_a_frozen_model_is_kept():
    rules = lambda pattern: (Rule(pattern=pattern, freeze=True), Rule(pattern=".*"))
    for pattern, seen in (("model/.*", 0), ("model/a", 1)):
        _, states, _ = run_toy(toy(rules=rules(pattern)), [GOOD])
        assert states[-1].model_state["seen"] == seen, pattern


def test_the_moving_average_follows_its_formula_and_skips_bad_steps():
    experiment = with_run(toy(), ema_decay=0.3)
    experiment = replace(experiment, run=replace(experiment.run, guard=Guard(policy="skip")))
    _, states, _ = run_toy(experiment, [GOOD, NAN, GOOD])
    average = jax.tree.map(np.asarray, states[0].params)
    chex.assert_trees_all_equal(states[0].evaluated[0], average)
    for step, (state, is_good) in enumerate(zip(states[1:], (True, False, True), strict=True)):
        decay = min(0.3, (1 + step) / (10 + step))
        if is_good:
            average = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * np.asarray(new), average, state.params)
        chex.assert_trees_all_close(state.evaluated[0], average, rtol=1e-6)
    assert not np.allclose(states[-1].evaluated[0]["model"]["a"], states[-1].params["model"]["a"])


@pytest.mark.parametrize("make", [augmented, masked_patches, contrast, vit, mobilenet], ids=lambda make: make.__name__)
def test_image_models_compute_in_bfloat16(make):
    """All convolutions, and the products of the model; augmentation and batch statistics are precise."""
    experiment = with_run(make(), precision="bf16")
    built = program(experiment, Mesh(), devices=1)
    traced = jax.make_jaxpr(built.step)(built.shapes, steps.batch_spec(experiment.data))
    kinds = re.findall(r":(\w+)\[[\d,]*\] = conv_general_dilated", str(traced))
    assert set(kinds) <= {"bf16"}
    products = re.findall(r":(\w+)\[[\d,]*\] = dot_general", str(traced))
    assert products.count("bf16") > 5
