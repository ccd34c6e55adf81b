"""Eight devices learn what one does, hold the parts that the rules give them, and what cannot be laid out is named."""

import re
from dataclasses import dataclass, replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from data.labelled_text import LabelledText
from data.text import Text
from fmodels.axes import Layout, look_up, named, traced_for
from fmodels.bert import BertConfig
from train.checkpoint import checksum
from train.errors import UserError
from train.experiment import Experiment, Run
from train.objectives.classification import Classification
from train.objectives.masked_lm import MaskedLM
from train.optim import Optimizer
from train.recipes.digits import digits_cnn, digits_mlp
from train.sharding import RULES, Mesh, activations, arranged, by_name, check_batch, own_rows
from train.step import Program, State, build

# As a flag of the process, the TPU compiler does not know it and aborts; nor does jaxlib 0.12.
QUICKLY = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__ < (0, 12) else {}
STEPS, ROWS, LENGTH = 4, 16, 12
# Adam divides a gradient by its size plus eps, which is above the rounding of those that are 0 but for it (of a key's bias).
ADAMW = Optimizer(learning_rate=1e-2, schedule="cosine", warmup_steps=1, weight_decay=0.1, eps=1e-5)


def bert(**changes) -> Experiment:
    sizes = {"layers": 1, "width": 16, "heads": 4, "hidden": 24, "vocab_size": 40, "max_length": 16}
    return Experiment(
        model=BertConfig(**{**sizes, "dropout": 0.0, "attention_dropout": 0.0, **changes}),
        objective=MaskedLM(mask_rate=0.3, next_sentence=True, mask_id=4, random_ids=(5, 40)),
        data=Text(layout="pairs", length=LENGTH, batch_size=ROWS),
        optimizer=ADAMW,
        run=Run(steps=STEPS),
    )


def bert_with_dropout() -> Experiment:
    return bert(dropout=0.1, attention_dropout=0.2)


def scanned() -> Experiment:
    return bert(scan=True, layers=2)


def packed() -> Experiment:
    """Several sequences a row, whole words hidden."""
    objective = replace(bert().objective, next_sentence=False, whole_words=True)
    return replace(bert(), objective=objective, data=Text(layout="packed", length=LENGTH, batch_size=ROWS))


def classes() -> Experiment:
    objective = Classification(classes=10, label_shares=(0.1,) * 10, label_smoothing=0.1)
    return replace(bert(), objective=objective, data=LabelledText(length=LENGTH, batch_size=ROWS))


def muon() -> Experiment:
    return replace(bert(), optimizer=replace(ADAMW, name="muon"))


def rmsprop() -> Experiment:
    return replace(bert(), optimizer=replace(ADAMW, name="rmsprop", schedule="wsd"))


# Every choice of a block is in one of these.
BLOCKS = {
    "modern": {"position": "rotary", "norm": "rms", "activation": "swiglu", "norm_position": "pre", "bias": False},
    "alibi": {"position": "alibi", "activation": "geglu", "norm_position": "pre", "init": "fan_in", "remat": "full"},
    "relative": {"position": "relative", "activation": "relu", "scan": True, "layers": 2, "remat": "dots"},
    "directional": {"position": "directional", "activation": "gelu_tanh", "pooling": "mean", "norm_position": "pre"},
    "sinusoidal": {"position": "sinusoidal", "activation": "tanh", "norm": "rms"},
    "none": {"position": "none", "activation": "sigmoid", "segments": 2},
}


def mlp() -> Experiment:
    recipe = digits_mlp()
    objective = replace(recipe.objective, classes=10, label_shares=(0.1,) * 10)
    model, data = replace(recipe.model, hidden=(32, 16)), replace(recipe.data, batch_size=ROWS)
    return replace(recipe, model=model, objective=objective, data=data, optimizer=ADAMW, run=Run(steps=STEPS))


def cnn() -> Experiment:
    """The recipe's network, dropout and all, with a stage less."""
    recipe = digits_cnn()
    objective = replace(recipe.objective, classes=10, label_shares=(0.1,) * 10)
    model, data = replace(recipe.model, channels=(8, 16)), replace(recipe.data, batch_size=ROWS)
    return replace(recipe, model=model, objective=objective, data=data, optimizer=ADAMW, run=Run(steps=STEPS))


def batch(experiment: Experiment, seed: int) -> dict[str, np.ndarray]:
    rng, spec = np.random.default_rng(seed), experiment.data.spec()
    real, place = rng.integers(1, LENGTH - 1, ROWS)[:, None], np.arange(LENGTH)
    ordinary, second = (place >= 1) & (place <= real), place > real // 2
    known = {
        "example": np.arange(ROWS, dtype=np.uint32) + ROWS * seed,
        "valid": np.ones(ROWS, np.float32),
        "image": rng.random((ROWS, 8, 8, 1), np.float32),
        "label": rng.integers(10, size=ROWS, dtype=np.int32),
        "tokens": np.where(ordinary, rng.integers(5, 40, (ROWS, LENGTH)), 2).astype(np.int32),
        "words": np.where(ordinary, place, -1).astype(np.int32),
        "segments": second.astype(np.int32),
        "mask": place <= real + 1,
        "sequences": np.where(place <= real + 1, 1 + second, 0).astype(np.int32),
        "positions": (place - second * (real // 2 + 1)).astype(np.int32),
        "is_random": rng.integers(2, size=ROWS, dtype=np.int32),
    }
    return {name: known[name] for name in spec}


def program(experiment: Experiment, mesh: Mesh, devices: int = 8) -> Program:
    spec = {name: jax.ShapeDtypeStruct(s.shape, s.dtype) for name, s in experiment.data.spec().items()}
    return build(replace(experiment, mesh=mesh), spec, mesh.build(jax.devices()[:devices]))


def trained(built: Program, experiment: Experiment) -> tuple[State, list[float]]:
    """The state after some steps from the same parameters, and the losses on the way."""
    rng = np.random.default_rng(0)
    draw = lambda leaf: rng.normal(0.05, 0.2, leaf.shape).astype(np.float32)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), built.shapes)
    guard, params = replace(zeros.guard, bad_step=np.int32(-1)), jax.tree.map(draw, built.shapes.params)
    state = jax.device_put(replace(zeros, params=params, guard=guard), built.shardings)
    batches = [jax.device_put(batch(experiment, step), built.batch_sharding) for step in range(STEPS)]
    step = built.step.lower(built.shapes, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batches[0]))
    step, losses = step.compile(compiler_options=QUICKLY), []
    for rows in batches:
        state, metrics = step(state, rows)
        losses.append(sum(float(n / d) for n, d in metrics["sums"].terms.values()))
    return state, losses


@pytest.fixture(autouse=True, scope="module")
def uncached():
    """What is compiled anew: of what is taken from the cache, the partitioner says nothing."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@pytest.fixture(autouse=True)
def nothing_is_moved_against_our_will(capfd):
    """The partitioner says so where it replicates an array because it knows no other way."""
    yield
    assert "Involuntary" not in capfd.readouterr().err


def test_what_is_moved_against_our_will_is_heard(capfd):
    """A table that is split both ways, looked up in by rows of a batch, as it is not in the models."""
    mesh = Mesh(data=2, fsdp=2, tensor=2).build()
    on = lambda *axes: jax.NamedSharding(mesh, jax.P(*axes))

    def loss(table, ids, kernel):
        found = jax.lax.with_sharding_constraint(jnp.take(table, ids, axis=0), on(("data", "fsdp"), None, None))
        return (found @ kernel).sum()

    placed = (on("tensor", "fsdp"), on(("data", "fsdp")), on("fsdp", "tensor"))
    shapes = (((40, 16), jnp.float32), ((16, 12), jnp.int32), ((16, 16), jnp.float32))
    step = jax.jit(jax.grad(loss), in_shardings=placed, out_shardings=placed[0])
    step.lower(*(jax.ShapeDtypeStruct(*shape) for shape in shapes)).compile()
    assert "Involuntary" in capfd.readouterr().err


@pytest.fixture(scope="module")
def alone():
    """What one device makes of an experiment."""
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
    "classes data 2 fsdp 2 tensor 2 accumulation 2": (classes, Mesh(data=2, fsdp=2, tensor=2), 2),
    "classes tensor 4": (classes, Mesh(replica=2, data=1, tensor=4), 1),
    "muon data 2 fsdp 2 tensor 2": (muon, Mesh(data=2, fsdp=2, tensor=2), 1),
    "rmsprop fsdp 4 tensor 2": (rmsprop, Mesh(data=1, fsdp=4, tensor=2), 1),
    "mlp replica 2 fsdp 2 tensor 2": (mlp, Mesh(replica=2, data=1, fsdp=2, tensor=2), 1),
    "mlp tensor 8": (mlp, Mesh(data=1, tensor=8), 1),
    "mlp data 2 fsdp 2 tensor 2": (mlp, Mesh(data=2, fsdp=2, tensor=2), 1),
    "cnn data 8": (cnn, Mesh(data=8), 1),
    "cnn data 2 fsdp 4": (cnn, Mesh(data=2, fsdp=4), 1),
    "cnn replica 2 fsdp 2 tensor 2": (cnn, Mesh(replica=2, data=1, fsdp=2, tensor=2), 1),
}


@pytest.mark.parametrize(("make", "mesh", "accumulation"), MESHES.values(), ids=MESHES.keys())
def test_eight_devices_learn_what_one_does(alone, make, mesh, accumulation):
    state, losses = alone(make)
    experiment = make()
    experiment = replace(experiment, run=replace(experiment.run, accumulation=accumulation))
    built = program(experiment, mesh)
    sharded, sharded_losses = trained(built, experiment)
    assert max(losses) - min(losses) > 1e-2
    np.testing.assert_allclose(sharded_losses, losses, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(sharded.params, state.params, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(sharded.model_state, state.model_state, rtol=0, atol=1e-5)
    if experiment.optimizer is ADAMW:
        assert_laid_out(sharded, built)


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_every_block_learns_on_eight_devices_what_it_does_on_one(block):
    experiment = bert(**block)
    state, losses = trained(program(experiment, Mesh(), devices=1), experiment)
    sharded, sharded_losses = trained(program(experiment, Mesh(replica=2, data=1, fsdp=2, tensor=2)), experiment)
    np.testing.assert_allclose(sharded_losses, losses, rtol=0, atol=1e-5)
    chex.assert_trees_all_close(sharded.params, state.params, rtol=0, atol=1e-5)


# Mesh axes of each dimension, as a person writes them down.
LAYOUT = {
    r".*/layers/.*/(query|key|value|up)/kernel": (None, "fsdp", "tensor"),
    r".*/layers/.*/(query|key|value|up)/bias": (None, "tensor"),
    r".*/layers/.*/(out|down)/kernel": (None, "tensor", "fsdp"),
    r".*/layers/.*": (None, "fsdp"),
    r"model/dense_0/kernel": (None, "tensor"),
    r"model/dense_1/kernel": ("fsdp", "tensor"),
    r"model/dense_\d/bias": ("tensor",),
    r"model/token_embedding/embedding": ("tensor", "fsdp"),
    r"model/(segment|position)_embedding/embedding": (None, "fsdp"),
    r".*norm/(scale|bias)": ("fsdp",),
    r".*/attention/(query|key|value)/kernel": ("fsdp", "tensor"),
    r".*/attention/(query|key|value)/bias": ("tensor",),
    r".*/attention/out/kernel": ("tensor", "fsdp"),
    r".*/mlp/up/kernel": ("fsdp", "tensor"),
    r".*/mlp/up/bias": ("tensor",),
    r".*/mlp/down/kernel": ("tensor", "fsdp"),
    r".*/(out|down)/bias": ("fsdp",),
    r"model/pooler/kernel|head/masked_lm/dense/kernel": ("fsdp", "tensor"),
    r"model/pooler/bias|head/masked_lm/dense/bias": ("tensor",),
    r"head/.*/dense/kernel": ("fsdp", None),
    r"head/.*/dense/bias": (None,),
    r"head/masked_lm/bias": ("tensor",),
    r"model/stage_\d_\d/kernel": (None, None, None, "fsdp"),
}


def layout(name: str) -> tuple[str | None, ...]:
    return next(axes for pattern, axes in LAYOUT.items() if re.fullmatch(pattern, name))


def assert_laid_out(state: State, built: Program) -> None:
    """Parameters and both moments lie in parts where the table has a mesh axis, and nothing else of the state does."""
    sizes, seen = built.mesh.shape, []
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        place = jax.tree_util.keystr(path, simple=True, separator="/")
        found = re.fullmatch(r"(?:params|opt_state/.*/(?:mu|nu))/(.*)", place)
        axes = layout(found[1]) if found else (None,) * leaf.ndim
        wanted = tuple(size // (sizes[axis] if axis else 1) for size, axis in zip(leaf.shape, axes, strict=True))
        assert {shard.data.shape for shard in leaf.addressable_shards} == {wanted}, place
        assert len(leaf.addressable_shards) == 8, place
        seen += [found[1]] if found else []
    assert sorted(seen) == sorted(3 * list(by_name(built.shapes.params)))


@pytest.mark.parametrize("optimizer", ["momentum", "rmsprop", "lion", "muon"])
def test_moments_lie_where_their_parameters_do(optimizer):
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
        assert name or leaf.size < 4, f"{place} is whole on every device, and not a count or a coefficient"
    assert seen == set(by_name(built.shapes.params))


def test_scanned_layers_lie_as_each_does():
    place = lambda built: dict(zip(by_name(built.shapes.params), jax.tree.leaves(built.shardings.params), strict=True))
    mesh = Mesh(data=2, fsdp=2, tensor=2)
    unscanned, scanned = (place(program(bert(scan=scan), mesh)) for scan in (False, True))
    for name, sharding in unscanned.items():
        stacked = scanned[name.replace("layer_0", "layers")].spec
        assert stacked == (jax.P(None, *sharding.spec) if "layer_0" in name else sharding.spec), name


ROW_RULES = {
    "as they are": {},
    "vocabulary and width on one": {"vocab": ("fsdp",)},
    "width on tensor": {"embed": ("tensor",), "vocab": ("fsdp",)},
    "width on both": {"embed": ("fsdp", "tensor"), "vocab": ()},
    "vocabulary on both": {"embed": (), "vocab": ("fsdp", "tensor")},
    "vocabulary on both, the other way": {"embed": (), "vocab": ("tensor", "fsdp")},
    "batch without fsdp": {"batch": ("replica", "data")},
    "batch on tensor": {"batch": ("tensor",)},
    "batch whole": {"batch": ()},
}


@pytest.mark.parametrize("changed", ROW_RULES.values(), ids=ROW_RULES.keys())
def test_vectors_are_found_wherever_they_lie(changed):
    """And their gradients; an id that is in no table gives NaN, which the guard sees."""
    mesh, rules = Mesh(data=2, fsdp=2, tensor=2).build(), {**RULES, **changed}
    rng, names = np.random.default_rng(0), ("vocab", "embed")
    table, ids = rng.normal(size=(40, 16)).astype(np.float32), rng.integers(40, size=(16, 12))
    weights = rng.normal(size=(16, 12, 16)).astype(np.float32)

    def loss(table, ids, weights):
        return (look_up(table, names, ids, 16) * weights).sum()

    def both(layout: Layout, ids):
        with traced_for(layout):
            return jax.jit(jax.value_and_grad(loss))(table, ids, weights)

    for of in (ids, ids[:1]):
        wanted, found = both(Layout(), of), both(activations(mesh, rules)[0], of)
        chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-5)
    for wrong in (-1, 40):
        ids[3, 4] = wrong
        with traced_for(activations(mesh, rules)[0]):
            found = np.asarray(jax.jit(lambda table, ids: look_up(table, names, ids, 16))(table, ids))
        assert np.isnan(found[3, 4]).all() and np.isfinite(np.delete(found, 3, 0)).all()


def test_the_batch_is_in_parts():
    built = program(bert(), Mesh(data=2, fsdp=4))
    rows = jax.device_put(batch(bert(), 0), built.batch_sharding)
    for x in rows.values():
        assert {shard.data.shape for shard in x.addressable_shards} == {(ROWS // 8, *x.shape[1:])}
    built = program(bert(), Mesh(data=2, tensor=4))
    rows = jax.device_put(batch(bert(), 0), built.batch_sharding)
    assert {shard.data.shape for shard in rows["tokens"].addressable_shards} == {(ROWS // 2, LENGTH)}


def test_fsdp_leaves_whole_what_has_no_dimension_of_the_width():
    built = program(bert(), Mesh(data=1, fsdp=8))
    shardings = zip(by_name(built.shapes.params), jax.tree.leaves(built.shardings.params), strict=True)
    whole = {name for name, sharding in shardings if sharding.is_fully_replicated}
    assert whole == {name for name in by_name(built.shapes.params) if "fsdp" not in layout(name)}


@pytest.mark.parametrize(
    ("changes", "mesh", "message"),
    [
        (
            {"width": 20},
            Mesh(data=1, fsdp=8),
            "head/masked_lm/dense/kernel [20, 20]: dimension 'embed' of 20 does not divide by 8",
        ),
        (
            {"hidden": 30},
            Mesh(tensor=4),
            "model/encoder/layer_0/mlp/down/kernel [30, 16]: dimension 'mlp' of 30 does not divide by 4",
        ),
        ({"vocab_size": 42}, Mesh(tensor=4), "head/masked_lm/bias [42]: dimension 'vocab' of 42 does not divide by 4"),
        ({"heads": 2}, Mesh(tensor=4), "activation [16, 12, 2, 8]: dimension 'heads' of 2 does not divide by 4"),
    ],
    ids=["width", "mlp", "vocabulary", "heads"],
)
def test_what_does_not_divide_is_named(changes, mesh, message):
    """When the program is built, before anything is trained or written."""
    axis = "fsdp" if mesh.fsdp > 1 else "tensor"
    advice = f", the size of mesh axis {axis}; choose a multiple, or a smaller mesh.{axis}"
    with pytest.raises(UserError) as caught:
        program(bert(**changes), mesh)
    assert str(caught.value) == message + advice


def test_an_axis_without_a_rule_is_named():
    @dataclass
    class Toy:
        def build(self):
            return self

        def init(self, rng, batch):
            return {"kernel": named(jax.nn.initializers.ones, "embed", "head")(rng, (8, 4))}, {}

    @dataclass
    class Objective:
        init = lambda self, model, rng, batch: ({"model": model.init(rng, batch)[0]}, {})

    for mesh, devices in ((Mesh(), 1), (Mesh(data=8), 8)):
        with pytest.raises(UserError, match=r"^model/kernel \[8, 4\]: unknown logical axis 'head'; did you mean heads\?$"):
            program(replace(bert(), model=Toy(), objective=Objective()), mesh, devices)


def test_a_rule_that_nobody_reads_is_named():
    with pytest.raises(UserError, match=r"^mesh.rules: nothing has the logical axis 'embedd'; did you mean embed\?$"):
        program(bert(), Mesh(data=8, rules={**RULES, "embedd": ("fsdp",)}))
    program(bert(), Mesh(data=8, rules={**RULES, "vocab": ()}))


def test_each_process_reads_the_rows_that_its_devices_hold():
    class Held:  # what is asked of a sharding
        def addressable_devices_indices_map(self, shape):
            return {"a": (slice(4, 8),), "b": (slice(12, 16),), "c": (slice(4, 8),)}

    assert own_rows(Held(), 16).tolist() == [4, 5, 6, 7, 12, 13, 14, 15]


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh(data=3), "data 3 x fsdp 1 x tensor 1 does not fit 8 cpu device(s); --mesh.data -1 takes what the others leave"),
        (Mesh(data=16), "data 16 x fsdp 1 x tensor 1 does not fit 8 cpu device(s); --mesh.data -1 takes what the others leave"),
        (Mesh(data=1), "data 1 x fsdp 1 x tensor 1 does not fit 8 cpu device(s); --mesh.data -1 takes what the others leave"),
        (Mesh(fsdp=3), "data -1 x fsdp 3 x tensor 1 does not fit 8 cpu device(s); what is given makes 3"),
        (Mesh(tensor=16), "data -1 x fsdp 1 x tensor 16 does not fit 8 cpu device(s); what is given makes 16"),
    ],
    ids=str,
)
def test_a_mesh_that_does_not_fit_the_devices_is_named(mesh, message):
    with pytest.raises(UserError, match=f"^{re.escape('mesh: replica 1 x ' + message)}$"):
        mesh.build()


@pytest.mark.parametrize(
    ("mesh", "sizes"),
    [
        (Mesh(), (1, 8, 1, 1)),
        (Mesh(tensor=2), (1, 4, 1, 2)),
        (Mesh(data=2, fsdp=-1), (1, 2, 4, 1)),
        (Mesh(data=2, fsdp=2, tensor=-1), (1, 2, 2, 2)),
    ],
    ids=str,
)
def test_one_axis_takes_what_is_left(mesh, sizes):
    assert mesh.build().devices.shape == sizes
    assert Mesh().build(jax.devices()[:1]).devices.shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": 0}, "data must be at least 1, or -1 to take the devices that are left, not 0"),
        ({"fsdp": -2}, "fsdp must be at least 1, or -1 to take the devices that are left, not -2"),
        ({"tensor": -1}, "data and tensor are -1; one axis at most takes the devices that are left"),
        ({"rules": {"batch": ("data",), "embed": ("fsdb",)}}, "rules.embed: there is no mesh axis 'fsdb'; did you mean fsdp?"),
        ({"rules": {"embed": ()}}, "rules must have one for batch"),
    ],
    ids=str,
)
def test_what_is_no_mesh_is_named(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Mesh(**fields)


@pytest.mark.parametrize(
    ("mesh", "accumulation", "message"),
    [
        (Mesh(), 1, "8 device(s) along replica x data x fsdp: it must be a multiple of 8"),
        (
            Mesh(fsdp=2, tensor=2),
            3,
            "4 device(s) along replica x data x fsdp in each of 3 microbatches: it must be a multiple of 12",
        ),
    ],
    ids=["devices", "microbatches"],
)
def test_a_batch_that_does_not_divide_is_named(mesh, accumulation, message):
    with pytest.raises(UserError, match=f"^data.batch_size 20 does not divide over {re.escape(message)}$"):
        check_batch(mesh.build(), mesh.rules, 20, accumulation)
    check_batch(mesh.build(), mesh.rules, 24, accumulation)


WIDE = {"width": 1024, "heads": 8, "hidden": 1024, "vocab_size": 1024, "layers": 2}  # 128 a chip: it scatters no less
KERNEL = 1024 * 1024


@pytest.fixture
def compiled_for_tpu(monkeypatch):
    """The text of a step that the TPU compiler has made for eight chips."""
    pytest.importorskip("libtpu", reason="the TPU compiler is not installed: pip install -e '.[dev,plan]'")
    from jax.experimental import topologies

    for name, value in {"SKIP_MDS_QUERY": "1", "WORKER_HOSTNAMES": "localhost", "ACCELERATOR_TYPE": "v5litepod-8"}.items():
        monkeypatch.setenv(f"TPU_{name}", value)
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices

    def text(mesh: Mesh, accumulation: int = 1, **changes) -> str:
        experiment = bert(**WIDE, **changes)
        experiment = replace(experiment, mesh=mesh, run=replace(experiment.run, accumulation=accumulation))
        spec = {name: jax.ShapeDtypeStruct(s.shape, s.dtype) for name, s in experiment.data.spec().items()}
        built = build(experiment, spec, mesh.build(list(devices)))
        return built.step.lower(built.shapes, spec).compile().as_text()

    return text


def collectives(text: str) -> list[tuple[str, list[int], str]]:
    """Each operation between chips: (kind, elements of each array that comes out, where in the model it is from). An all-reduce
    of which each chip keeps its part is a reduce-scatter, for which this compiler makes a computation of that name."""
    found, within = [], ""
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    for line in re.sub(r"/\*index=\d+\*/", "", text).splitlines():
        if begins := re.match(r"%?(\S+) \(.*\{$|ENTRY", line):
            within = begins[1] or ""
        if match := re.search(rf"= (\([^=]*?\)|\S+) ({kinds})(?:-start)?\((.*)", line):
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            sizes = [int(np.prod([int(n) for n in dims.split(",")] if dims else [1])) for dims in shapes]
            where = re.search(r'op_name="([^"]*)"', match[3])
            kind = "reduce-scatter" if within.startswith("all-reduce-scatter") else match[2]
            found.append((kind, sizes, where[1] if where else ""))
    return found


def sizes_of(kind: str, found: list[tuple[str, list[int], str]]) -> list[int]:
    return [size for of, sizes, _ in found for size in sizes if of == kind]


def test_copies_of_the_model_reduce_every_gradient_whole(compiled_for_tpu):
    found = collectives(compiled_for_tpu(Mesh(data=8)))
    assert sizes_of("all-reduce", found).count(KERNEL) == 2 * 6 + 3  # of two blocks, the pooler, the head, and the vocabulary
    assert {kind for kind, *_ in found} == {"all-reduce"}


@pytest.mark.parametrize("how", [{}, {"scan": True}, {"accumulation": 2}], ids=["plain", "scanned", "accumulated"])
def test_fsdp_gathers_parameters_and_scatters_gradients(compiled_for_tpu, how):
    found = collectives(compiled_for_tpu(Mesh(data=1, fsdp=8), **how))
    assert len([size for size in sizes_of("all-gather", found) if size >= KERNEL]) >= 6 * (1 if "scan" in how else 2)
    assert sizes_of("reduce-scatter", found)
    assert max(sizes_of("all-reduce", found)) <= 2 * 1024, "no more than vectors, and the table of two segments"
    moved = [where for kind, sizes, where in found if kind != "all-reduce" and max(sizes) >= ROWS * 1024]
    if not how:  # otherwise few of them say where they are from
        assert all(re.match(r"state\.params|.*/shard_map/|$", where) for where in moved), "activations stay where they are"


def test_tensor_parallel_blocks_reduce_twice_each_way(compiled_for_tpu):
    found = collectives(compiled_for_tpu(Mesh(data=1, tensor=8)))
    stream = ROWS * LENGTH * 1024
    reduced = [where for kind, sizes, where in found if kind == "all-reduce" and max(sizes) >= stream]
    for layer in ("layer_0", "layer_1"):
        mine = [where for where in reduced if f"/{layer}/" in where]
        assert len(mine) == 4 and len([where for where in mine if "transpose" in where]) == 2, mine
    assert len(reduced) == 2 * 4 + 1  # and where tokens are looked up in a vocabulary in parts
    assert not [size for kind in ("all-gather", "all-to-all") for size in sizes_of(kind, found) if size >= stream]


def test_replicas_reduce_what_fsdp_has_scattered(compiled_for_tpu):
    found = collectives(compiled_for_tpu(Mesh(replica=2, data=1, fsdp=2, tensor=2)))
    assert max(sizes_of("all-reduce", found)) == KERNEL // 4
    assert len(sizes_of("all-to-all", found)) == 0


def test_checksums_are_of_places_and_gather_nothing():
    built = program(bert(), Mesh(data=2, fsdp=2, tensor=2))
    params = jax.tree.map(
        lambda s, to: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=to), built.shapes.params, built.shardings.params
    )
    text = checksum.lower(params).compile().as_text()
    assert "all-reduce" in text and "all-gather" not in text
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    words = x.reshape(-1).view(np.uint32) * (2 * np.arange(x.size, dtype=np.uint32) + 1)
    assert int(checksum({"x": x})) == words.sum(dtype=np.uint32)  # one array, which counts once
    assert int(checksum({"x": x})) != int(checksum({"x": x[::-1]}))


def test_the_slow_network_is_crossed_by_the_first_axes_and_never_by_tensor():
    @dataclass(frozen=True)
    class Chip:  # what jax asks of a device to lay it out
        id: int
        slice_index: int
        process_index: int = 0
        platform: str = "gpu"
        device_kind: str = "pretended"

    chips = [Chip(i, i // 4) for i in range(8)]
    slices = lambda mesh, chips=chips: np.vectorize(lambda chip: chip.slice_index)(arranged(mesh, chips))
    for sizes, axis in (((2, 1, 2, 2), 0), ((1, 2, 2, 2), 1), ((1, 1, 8, 1), 2)):
        found = slices(sizes)
        assert found.shape == sizes
        half = sizes[axis] // 2
        assert (np.take(found, range(half), axis) == 0).all() and (np.take(found, range(half, 2 * half), axis) == 1).all()
    found = slices((2, 1, 2, 2), [Chip(i, i // 2) for i in range(8)])
    assert (found == found[..., :1]).all() and len(np.unique(found)) == 4, "four slices, over two axes"
    with pytest.raises(UserError, match=r"^mesh: the 2 slices that the devices are in are not of one size$"):
        arranged((1, 1, 8, 1), [Chip(i, i // 5) for i in range(8)])
    message = "mesh: replica 1 x data 1 x fsdp 1 x tensor 8: replica, data and fsdp must divide by the 2 slices"
    with pytest.raises(UserError, match=message):
        arranged((1, 1, 1, 8), chips)
