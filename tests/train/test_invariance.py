"""Training on eight devices equals training on one, and arrays are sharded by the rules."""

import math
import re
from dataclasses import replace
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmodels.axes import Layout, look_up, traced_for
from fmodels.bert import MODERN
from fmodels.nn.decoding import Decoding, generate, padded
from tests.cases import cases
from tests.train.experiments import (
    ADAMW,
    LENGTH,
    ROWS,
    STEPS,
    alexnet,
    answers,
    augmented,
    bert,
    bert_with_dropout,
    cifar,
    classes,
    cnn,
    contrast,
    efficient,
    embeddings,
    gpt,
    gpt_chunked,
    gpt_packed,
    inception,
    masked_patches,
    mixed,
    mlp,
    mobilenet,
    muon,
    numbers,
    packed,
    program,
    resnet,
    rmsprop,
    scanned,
    several_labels,
    spans,
    t5_packed,
    tags,
    textbook,
    translation,
    vit,
)
from train.experiment import Experiment
from train.sharding import RULES, Mesh, activations, by_name
from train.step import Program, State

# Not set in XLA_FLAGS: the TPU compiler aborts on this flag, and jaxlib 0.12 does not have it.
FAST_COMPILATION = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 12) else {}


def batch(experiment: Experiment, seed: int) -> dict[str, np.ndarray]:
    rng, spec = np.random.default_rng(seed), experiment.data.spec()
    real, place = rng.integers(1, LENGTH - 1, ROWS)[:, None], np.arange(LENGTH)
    ordinary, second = (place >= 1) & (place <= real), place > real // 2
    known = {
        "example": np.arange(ROWS, dtype=np.uint32) + ROWS * seed,
        "valid": np.ones(ROWS, np.float32),
        "bytes": np.full(ROWS, 3 * LENGTH, np.int32),
        "image": images(rng, spec["image"].shape) if "image" in spec else None,
        "label": rng.integers(10, size=ROWS, dtype=np.int32),
        "tokens": np.where(ordinary, rng.integers(5, 40, (ROWS, LENGTH)), 2).astype(np.int32),
        "words": np.where(ordinary, place, -1).astype(np.int32),
        "segments": second.astype(np.int32),
        "mask": place <= real + 1,
        "sequences": np.where(place <= real + 1, 1 + second, 0).astype(np.int32),
        "positions": (place - second * (real // 2 + 1)).astype(np.int32),
        "targets": np.where(place < real, rng.integers(5, 40, (ROWS, LENGTH)), -1).astype(np.int32),
        "starts": ordinary,
        "tags": np.where(ordinary, rng.integers(5, size=(ROWS, LENGTH)), -1).astype(np.int32),
        "begins": np.where(ordinary, place, -1).astype(np.int32),
        "ends": np.where(ordinary, place + 1, -1).astype(np.int32),
        "start": (1 + rng.integers(real[:, 0])).astype(np.int32),
        "end": real[:, 0].astype(np.int32),
        "score": rng.normal(size=ROWS).astype(np.float32),
        "labels": np.stack([rng.permutation(10)[:3] for _ in range(ROWS)]).astype(np.int32),
        "is_random": rng.integers(2, size=ROWS, dtype=np.int32),
    }
    sources = {"source": "tokens", "source_mask": "mask", "source_sequences": "sequences", "source_positions": "positions"}
    known |= {f"second_{name}": np.roll(known[name], 1, axis=0) for name in ("tokens", "words", "segments", "mask")}
    known |= {source: np.roll(known[target], 1, axis=0) for source, target in sources.items()}
    return {name: known[name] for name in spec}


def images(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return images of 2 x 2 patches of one colour each. Batch norm would amplify rounding errors if all images were alike."""
    _, height, width, _ = shape
    patches = rng.random((shape[0], 2, 2, shape[3]), np.float32)
    return patches.repeat(-(-height // 2), axis=1)[:, :height].repeat(-(-width // 2), axis=2)[:, :, :width]


def trained(built: Program, experiment: Experiment) -> tuple[State, list[float]]:
    """Return the state after STEPS steps from fixed parameters, and the losses.

    Image models train in float64, since batch norm amplifies rounding errors."""
    with jax.enable_x64("image" in experiment.data.spec()):
        return trained_in(np.float64 if "image" in experiment.data.spec() else np.float32, built, experiment)


def trained_in(dtype: type, built: Program, experiment: Experiment) -> tuple[State, list[float]]:
    rng = np.random.default_rng(0)

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        """Draw kernels of convolutions like He et al. 2015, and scales of norms near 1."""
        std = (2 / np.prod(leaf.shape[:-1])) ** 0.5 if len(leaf.shape) == 4 else 0.2
        mean = 1 if jax.tree_util.keystr(path[-1:], simple=True) == "scale" else 0.05 * (len(leaf.shape) < 4)
        return rng.normal(mean, std, leaf.shape).astype(np.float32)

    def converted(x: Any) -> Any:
        return x.astype(dtype) if x.dtype == np.float32 else x

    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), built.shapes)
    guard, params = replace(zeros.guard, bad_step=np.int32(-1)), jax.tree_util.tree_map_with_path(draw, built.shapes.params)
    start = replace(zeros, params=params, guard=guard)
    state = jax.device_put(jax.tree.map(converted, start), built.shardings)
    rows = [jax.tree.map(converted, batch(experiment, step)) for step in range(STEPS)]
    batches = [jax.device_put(x, built.batch_sharding) for x in rows]
    step = built.step.lower(*jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), (state, batches[0])))
    step, losses = step.compile(compiler_options=FAST_COMPILATION), []
    for rows in batches:
        state, metrics = step(state, rows)
        losses.append(sum(float(n / d) for n, d in metrics["sums"].terms.values()))
    return state, losses


@pytest.fixture(autouse=True)
def no_involuntary_replication(uncached, capfd):
    """The partitioner warns if it must replicate an array to reshard it."""
    yield
    assert "Involuntary" not in capfd.readouterr().err


def test_involuntary_replication_is_detected(capfd):
    """Reshard an array from its rows to its width."""
    mesh = Mesh(data=2, fsdp=2, tensor=2).build()
    rows, width = (jax.NamedSharding(mesh, jax.P(*axes)) for axes in ((("data", "fsdp"), None, None), (None, None, "tensor")))
    move = jax.jit(lambda x: jax.lax.with_sharding_constraint(x, width), in_shardings=rows)
    move.lower(jax.ShapeDtypeStruct((16, 12, 16), jnp.float32)).compile()
    assert "Involuntary" in capfd.readouterr().err


@pytest.fixture(scope="module")
def alone():
    """Return a function that trains an experiment on one device, with a cache."""
    known = {}

    def find(make):
        if make not in known:
            known[make] = trained(program(make(), Mesh(), devices=1), make())
        return known[make]

    return find


MESHES = {
    "data 8": (bert, Mesh(data=8), 1),
    "replica 8": (bert, Mesh(replica=8), 1),
    "fsdp 8": (bert, Mesh(data=1, fsdp=8), 1),
    "tensor 4": (bert_with_dropout, Mesh(data=2, tensor=4), 1),
    "data 2 fsdp 2 tensor 2 accumulation 2": (bert, Mesh(data=2, fsdp=2, tensor=2), 2),
    "data 2 fsdp 4": (bert, Mesh(data=2, fsdp=4), 1),
    "replica 2 fsdp 2 tensor 2 accumulation 2": (bert, Mesh(replica=2, data=1, fsdp=2, tensor=2), 2),
    "scanned fsdp 4 tensor 2": (scanned, Mesh(data=1, fsdp=4, tensor=2), 1),
    "scanned data 2 fsdp 2 tensor 2 accumulation 2": (scanned, Mesh(data=2, fsdp=2, tensor=2), 2),
    "packed fsdp 2 tensor 4": (packed, Mesh(data=1, fsdp=2, tensor=4), 1),
    "packed replica 2 fsdp 4 accumulation 2": (packed, Mesh(replica=2, data=1, fsdp=4), 2),
    "gpt data 2 fsdp 2 tensor 2": (gpt, Mesh(data=2, fsdp=2, tensor=2), 1),
    "gpt chunked data 2 fsdp 2 tensor 2 accumulation 2": (gpt_chunked, Mesh(data=2, fsdp=2, tensor=2), 2),
    "gpt packed fsdp 4 tensor 2": (gpt_packed, Mesh(data=1, fsdp=4, tensor=2), 1),
    "gpt packed replica 2 fsdp 2 tensor 2 accumulation 2": (gpt_packed, Mesh(replica=2, data=1, fsdp=2, tensor=2), 2),
    "translation data 2 fsdp 2 tensor 2": (translation, Mesh(data=2, fsdp=2, tensor=2), 1),
    "translation fsdp 4 tensor 2 accumulation 2": (translation, Mesh(data=1, fsdp=4, tensor=2), 2),
    "t5 packed data 2 fsdp 2 tensor 2 accumulation 2": (t5_packed, Mesh(data=2, fsdp=2, tensor=2), 2),
    "t5 packed replica 2 fsdp 4": (t5_packed, Mesh(replica=2, data=1, fsdp=4), 1),
    "spans data 2 fsdp 2 tensor 2 accumulation 2": (spans, Mesh(data=2, fsdp=2, tensor=2), 2),
    "classes data 2 fsdp 2 tensor 2 accumulation 2": (classes, Mesh(data=2, fsdp=2, tensor=2), 2),
    "classes tensor 4": (classes, Mesh(replica=2, data=1, tensor=4), 1),
    "embeddings data 8": (embeddings, Mesh(data=8), 1),
    "embeddings data 2 fsdp 2 tensor 2": (embeddings, Mesh(data=2, fsdp=2, tensor=2), 1),
    "tags data 2 fsdp 2 tensor 2 accumulation 2": (tags, Mesh(data=2, fsdp=2, tensor=2), 2),
    "answers data 2 fsdp 2 tensor 2 accumulation 2": (answers, Mesh(data=2, fsdp=2, tensor=2), 2),
    "numbers data 2 fsdp 2 tensor 2 accumulation 2": (numbers, Mesh(data=2, fsdp=2, tensor=2), 2),
    "several labels data 2 fsdp 2 tensor 2 accumulation 2": (several_labels, Mesh(data=2, fsdp=2, tensor=2), 2),
    "muon data 2 fsdp 2 tensor 2": (muon, Mesh(data=2, fsdp=2, tensor=2), 1),
    "rmsprop fsdp 4 tensor 2": (rmsprop, Mesh(data=1, fsdp=4, tensor=2), 1),
    "mlp replica 2 fsdp 2 tensor 2": (mlp, Mesh(replica=2, data=1, fsdp=2, tensor=2), 1),
    "mlp tensor 8": (mlp, Mesh(data=1, tensor=8), 1),
    "mlp data 2 fsdp 2 tensor 2": (mlp, Mesh(data=2, fsdp=2, tensor=2), 1),
    "cnn data 8": (cnn, Mesh(data=8), 1),
    "cnn data 2 fsdp 4": (cnn, Mesh(data=2, fsdp=4), 1),
    "cnn replica 2 fsdp 2 tensor 2": (cnn, Mesh(replica=2, data=1, fsdp=2, tensor=2), 1),
    "inception data 4 fsdp 2": (inception, Mesh(data=4, fsdp=2), 1),
    "augmented data 2 fsdp 2 tensor 2": (augmented, Mesh(data=2, fsdp=2, tensor=2), 1),
    "masked patches data 2 fsdp 2 tensor 2": (masked_patches, Mesh(data=2, fsdp=2, tensor=2), 1),
    "contrast data 2 fsdp 2 tensor 2": (contrast, Mesh(data=2, fsdp=2, tensor=2), 1),
    "vit data 2 fsdp 2 tensor 2": (vit, Mesh(data=2, fsdp=2, tensor=2), 1),
    **{
        f"{make.__name__} data 2 fsdp 2 tensor 2": (make, Mesh(data=2, fsdp=2, tensor=2), 1)
        for make in (resnet, cifar, textbook, alexnet, mobilenet, efficient, mixed)
    },
}


# Other cases are marked slow. These cover each family and each axis.
FAST = [
    "data 2 fsdp 2 tensor 2 accumulation 2",
    "gpt chunked data 2 fsdp 2 tensor 2 accumulation 2",
    "gpt packed fsdp 4 tensor 2",
    "translation data 2 fsdp 2 tensor 2",
    "embeddings data 2 fsdp 2 tensor 2",
    "mlp data 2 fsdp 2 tensor 2",
    "cnn replica 2 fsdp 2 tensor 2",
    "vit data 2 fsdp 2 tensor 2",
    "resnet data 2 fsdp 2 tensor 2",
]


@pytest.mark.parametrize(("make", "mesh", "accumulation"), cases(MESHES, FAST))
def test_training_on_eight_devices_equals_one(alone, make, mesh, accumulation):
    state, losses = alone(make)
    experiment = make()
    experiment = replace(experiment, run=replace(experiment.run, accumulation=accumulation))
    built = program(experiment, mesh)
    sharded, sharded_losses = trained(built, experiment)
    assert max(losses) - min(losses) > 1e-2
    np.testing.assert_allclose(sharded_losses, losses, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(sharded.params, state.params, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(sharded.model_state, state.model_state, rtol=0, atol=1e-5)
    if experiment.optimizer.name == "adamw":
        assert_sharded(sharded, built)


@pytest.mark.parametrize("options", [{"beams": 2, "repetition_penalty": 3.0}, {"temperature": 1.0}], ids=str)
@pytest.mark.parametrize("make", [gpt_packed, pytest.param(gpt_chunked, marks=pytest.mark.slow)])
def test_generation_on_eight_devices_equals_one(make, options):
    """The second model has scanned layers."""
    config, built = make().model, program(make(), Mesh(data=2, fsdp=2, tensor=2))
    layout = activations(built.mesh, RULES)[0]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0.05, 0.2, leaf.shape).astype(np.float32), built.shapes.params["model"])
    prompts = padded([[7], [5, 6, 9], [8, 8], [3, 2, 1, 4]] * 2, 4)
    decoding, model = Decoding(new_tokens=6, **options), config.build()

    def run(params, batch, layout: Layout) -> np.ndarray:
        with traced_for(layout):
            new = jax.jit(lambda params, batch: generate(model.apply, params, {}, batch, decoding, jax.random.key(0)))
            return np.asarray(new(params, batch))

    wanted = run(params, prompts, Layout())
    sharded = jax.device_put(params, built.shardings.params["model"])
    rows = jax.device_put(prompts, jax.NamedSharding(built.mesh, jax.P(("data", "fsdp"))))
    np.testing.assert_array_equal(run(sharded, rows, layout), wanted)
    assert len(np.unique(wanted)) > 5


# Together, these cover every option of a block.
BLOCKS = {
    "modern": {"position": "rotary", "norm": "rms", "activation": "swiglu", "norm_position": "pre", "bias": False},
    "alibi": {"position": "alibi", "activation": "geglu", "norm_position": "pre", "init": "fan_in", "remat": "full"},
    "relative": {"position": "relative", "activation": "relu", "scan": True, "layers": 2, "remat": "dots"},
    "directional": {"position": "directional", "activation": "gelu_tanh", "pooling": "mean", "norm_position": "pre"},
    "sinusoidal": {"position": "sinusoidal", "activation": "tanh", "norm": "rms"},
    "modern bert": {**MODERN, "segments": 2, "layers": 2, "window": 2, "global_every": 2},
    "none": {"position": "none", "activation": "sigmoid", "segments": 2},
}


@pytest.mark.parametrize("block", cases(BLOCKS, ["modern"]))
def test_training_every_block_on_eight_devices_equals_one(block):
    experiment = bert(**block)
    state, losses = trained(program(experiment, Mesh(), devices=1), experiment)
    sharded, sharded_losses = trained(program(experiment, Mesh(replica=2, data=1, fsdp=2, tensor=2)), experiment)
    np.testing.assert_allclose(sharded_losses, losses, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(sharded.params, state.params, rtol=0, atol=1e-5)


ROW_RULES = {
    "default": {},
    "vocabulary and width on fsdp": {"vocab": ("fsdp",)},
    "width on tensor": {"embed": ("tensor",), "vocab": ("fsdp",)},
    "width on both": {"embed": ("fsdp", "tensor"), "vocab": ()},
    "vocabulary on both": {"embed": (), "vocab": ("fsdp", "tensor")},
    "vocabulary on both, reversed": {"embed": (), "vocab": ("tensor", "fsdp")},
    "batch without fsdp": {"batch": ("replica", "data")},
    "batch on tensor": {"batch": ("tensor",)},
    "batch replicated": {"batch": ()},
}


@pytest.mark.parametrize("changed", ROW_RULES.values(), ids=ROW_RULES.keys())
def test_look_up_for_any_sharding_of_the_table(changed):
    """Values and gradients. An id outside of the table gives NaN, which the guard detects."""
    mesh, rules = Mesh(data=2, fsdp=2, tensor=2).build(), {**RULES, **changed}
    rng, names = np.random.default_rng(0), ("vocab", "embed")
    table, ids = rng.normal(size=(40, 16)).astype(np.float32), rng.integers(40, size=(16, 12))
    weights = rng.normal(size=(16, 12, 16)).astype(np.float32)

    def loss(table, ids, weights):
        return (look_up(table, names, ids, 16) * weights).sum()

    def both(layout: Layout, ids):
        with traced_for(layout):
            return jax.jit(jax.value_and_grad(loss))(table, ids, weights)

    for some in (ids, ids[:1]):
        wanted, found = both(Layout(), some), both(activations(mesh, rules)[0], some)
        chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-5)
    for wrong in (-1, 40):
        ids[3, 4] = wrong
        with traced_for(activations(mesh, rules)[0]):
            found = np.asarray(jax.jit(lambda table, ids: look_up(table, names, ids, 16))(table, ids))
        assert np.isnan(found[3, 4]).all() and np.isfinite(np.delete(found, 3, 0)).all()


# Mesh axes of each dimension, written by hand.
LAYOUT = {
    r".*/layers/.*/(query|key|value|up|gate)/kernel": (None, "fsdp", "tensor"),
    r".*/layers/.*/(query|key|value|up)/bias": (None, "tensor"),
    r".*/layers/.*/(out|down)/kernel": (None, "tensor", "fsdp"),
    r".*/layers/.*": (None, "fsdp"),
    r"model/dense_0/kernel": (None, "tensor"),
    r"model/dense_1/kernel": ("fsdp", "tensor"),
    r"model/dense_\d/bias": ("tensor",),
    r"model/token_embedding/embedding|model/output": ("tensor", "fsdp"),
    r"model/(segment|position)_embedding/embedding": (None, "fsdp"),
    r"model/(encoder|decoder)/relative_bias/embedding": (None, "tensor"),
    r"model/stage_\d_\d/norm/(scale|bias)": (("fsdp", "tensor"),),
    r".*norm/(scale|bias)": ("fsdp",),
    r".*/(source_)?attention/(query|key|value)/kernel": ("fsdp", "tensor"),
    r".*/(source_)?attention/(query|key|value)/bias": ("tensor",),
    r".*/(source_)?attention/out/kernel": ("tensor", "fsdp"),
    r".*/mlp/(up|gate)/kernel": ("fsdp", "tensor"),
    r".*/mlp/up/bias": ("tensor",),
    r".*/mlp/down/kernel": ("tensor", "fsdp"),
    r".*/(out|down)/bias": ("fsdp",),
    r"model/pooler/kernel|head/masked_lm/dense/kernel": ("fsdp", "tensor"),
    r"model/pooler/bias|head/masked_lm/dense/bias": ("tensor",),
    r"head/.*/dense/kernel": ("fsdp", None),
    r"head/.*/dense/bias": (None,),
    r"head/masked_lm/bias": ("tensor",),
    r"model/stage_\d_\d/conv/kernel": (None, None, None, ("fsdp", "tensor")),
}


def layout(name: str) -> tuple[str | None, ...]:
    return next(axes for pattern, axes in LAYOUT.items() if re.fullmatch(pattern, name))


def assert_sharded(state: State, built: Program) -> None:
    """Assert that parameters and both moments are sharded as in LAYOUT, and the rest of the state is replicated."""
    sizes, seen = built.mesh.shape, []
    ways = lambda axes: math.prod(sizes[axis] for axis in ((axes,) if isinstance(axes, str) else axes or ()))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        place = jax.tree_util.keystr(path, simple=True, separator="/")
        found = re.fullmatch(r"(?:params|opt_state/.*/(?:mu|nu))/(.*)", place)
        axes = layout(found[1]) if found else (None,) * leaf.ndim
        wanted = tuple(size // ways(axis) for size, axis in zip(leaf.shape, axes, strict=True))
        assert {shard.data.shape for shard in leaf.addressable_shards} == {wanted}, place
        assert len(leaf.addressable_shards) == 8, place
        seen += [found[1]] if found else []
    assert sorted(seen) == sorted(3 * list(by_name(built.shapes.params)))


@pytest.mark.parametrize("optimizer", ["momentum", "rmsprop", "lion", "muon"])
def test_moments_are_sharded_like_their_parameters(optimizer):
    experiment = replace(bert(), optimizer=replace(ADAMW, name=optimizer))
    built = program(experiment, Mesh(data=2, fsdp=2, tensor=2))
    seen = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(built.shapes.opt_state):
        place = jax.tree_util.keystr(path, simple=True, separator="/")
        name = next((name for name in by_name(built.shapes.params) if place.endswith(f"/{name}")), None)
        axes = layout(name) if name else ()
        seen |= {name} - {None}
        sharding = next(s for p, s in jax.tree_util.tree_leaves_with_path(built.shardings.opt_state) if p == path)
        assert sharding.spec == jax.P(*axes), place
        assert name or leaf.size < 4, f"{place} is replicated, but not a count or a coefficient"
    assert seen == set(by_name(built.shapes.params))


def test_scanned_layers_are_sharded_like_single_layers():
    place = lambda built: dict(zip(by_name(built.shapes.params), jax.tree.leaves(built.shardings.params), strict=True))
    mesh = Mesh(data=2, fsdp=2, tensor=2)
    unscanned, scanned = (place(program(bert(scan=scan), mesh)) for scan in (False, True))
    for name, sharding in unscanned.items():
        stacked = scanned[name.replace("layer_0", "layers")].spec
        assert stacked == (jax.P(None, *sharding.spec) if "layer_0" in name else sharding.spec), name


def test_the_batch_is_sharded():
    built = program(bert(), Mesh(data=2, fsdp=4))
    rows = jax.device_put(batch(bert(), 0), built.batch_sharding)
    for x in rows.values():
        assert {shard.data.shape for shard in x.addressable_shards} == {(ROWS // 8, *x.shape[1:])}
    built = program(bert(), Mesh(data=2, tensor=4))
    rows = jax.device_put(batch(bert(), 0), built.batch_sharding)
    assert {shard.data.shape for shard in rows["tokens"].addressable_shards} == {(ROWS // 2, LENGTH)}


def test_fsdp_replicates_arrays_without_a_width_dimension():
    built = program(bert(), Mesh(data=1, fsdp=8))
    shardings = zip(by_name(built.shapes.params), jax.tree.leaves(built.shardings.params), strict=True)
    whole = {name for name, sharding in shardings if sharding.is_fully_replicated}
    assert whole == {name for name in by_name(built.shapes.params) if "fsdp" not in layout(name)}
