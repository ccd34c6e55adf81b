"""Meshes and sharding rules; errors are raised before training starts."""

import re
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest

from fmodels.axes import named
from tests.train.experiments import bert, program
from train.errors import UserError
from train.sharding import RULES, Mesh, check_batch, device_array, own_rows


@pytest.mark.parametrize(
    ("changes", "mesh", "message"),
    [
        (
            {"width": 20},
            Mesh(data=1, fsdp=8),
            "head/masked_lm/dense/kernel [20, 20]: dimension 'embed' of size 20 is not divisible by 8",
        ),
        (
            {"hidden": 30},
            Mesh(tensor=4),
            "model/encoder/layer_0/mlp/down/kernel [30, 16]: dimension 'mlp' of size 30 is not divisible by 4",
        ),
        ({"vocab_size": 42}, Mesh(tensor=4), "head/masked_lm/bias [42]: dimension 'vocab' of size 42 is not divisible by 4"),
        ({"heads": 2}, Mesh(tensor=4), "activation [16, 12, 2, 8]: dimension 'heads' of size 2 is not divisible by 4"),
    ],
    ids=["width", "mlp", "vocabulary", "heads"],
)
def test_indivisible_dimensions_are_errors(changes, mesh, message):
    """The error is raised when the program is built, before anything is trained or written."""
    axis = "fsdp" if mesh.fsdp > 1 else "tensor"
    advice = f", the size of mesh axis {axis}; choose a multiple, or a smaller mesh.{axis}"
    with pytest.raises(UserError) as caught:
        program(bert(**changes), mesh)
    assert str(caught.value) == message + advice


def test_logical_axes_without_a_rule_are_errors():
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


def test_unused_rules_are_errors():
    with pytest.raises(UserError, match=r"^mesh.rules: no array has the logical axis 'embedd'; did you mean embed\?$"):
        program(bert(), Mesh(data=8, rules={**RULES, "embedd": ("fsdp",)}))
    program(bert(), Mesh(data=8, rules={**RULES, "vocab": ()}))


def test_each_process_reads_the_rows_of_its_devices():
    class FakeSharding:
        def addressable_devices_indices_map(self, shape):
            return {"a": (slice(4, 8),), "b": (slice(12, 16),), "c": (slice(4, 8),)}

    assert own_rows(FakeSharding(), 16).tolist() == [4, 5, 6, 7, 12, 13, 14, 15]


ADVICE = "; set one --mesh.AXIS to -1 for all remaining devices"


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (
            Mesh(data=3),
            "data 3 x fsdp 1 x tensor 1 does not fit 8 cpu device(s); the given sizes multiply to 3" + ADVICE,
        ),
        (
            Mesh(data=16),
            "data 16 x fsdp 1 x tensor 1 does not fit 8 cpu device(s); the given sizes multiply to 16" + ADVICE,
        ),
        (
            Mesh(data=1),
            "data 1 x fsdp 1 x tensor 1 does not fit 8 cpu device(s); the given sizes multiply to 1" + ADVICE,
        ),
        (Mesh(fsdp=3), "data -1 x fsdp 3 x tensor 1 does not fit 8 cpu device(s); the given sizes multiply to 3"),
        (Mesh(tensor=16), "data -1 x fsdp 1 x tensor 16 does not fit 8 cpu device(s); the given sizes multiply to 16"),
    ],
    ids=str,
)
def test_meshes_that_do_not_fit_the_devices_are_errors(mesh, message):
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
def test_one_axis_takes_the_remaining_devices(mesh, sizes):
    assert mesh.build().devices.shape == sizes
    assert Mesh().build(jax.devices()[:1]).devices.shape == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data": 0}, "data must be at least 1, or -1 for all remaining devices, not 0"),
        ({"fsdp": -2}, "fsdp must be at least 1, or -1 for all remaining devices, not -2"),
        ({"tensor": -1}, "data and tensor are -1; at most one axis may be -1"),
        ({"rules": {"batch": ("data",), "embed": ("fsdb",)}}, "rules.embed: unknown mesh axis 'fsdb'; did you mean fsdp?"),
        ({"rules": {"embed": ()}}, "rules must include batch"),
    ],
    ids=str,
)
def test_invalid_mesh_fields_are_errors(fields, message):
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
def test_indivisible_batches_are_errors(mesh, accumulation, message):
    with pytest.raises(UserError, match=f"^data.batch_size 20 does not divide over {re.escape(message)}$"):
        check_batch(mesh.build(), mesh.rules, 20, accumulation)
    check_batch(mesh.build(), mesh.rules, 24, accumulation)


def test_first_axes_cross_the_slow_network_and_tensor_does_not():
    @dataclass(frozen=True)
    class Chip:  # the attributes that jax reads to lay out devices
        id: int
        slice_index: int
        process_index: int = 0
        platform: str = "gpu"
        device_kind: str = "fake"

    chips = [Chip(i, i // 4) for i in range(8)]
    slices = lambda mesh, chips=chips: np.vectorize(lambda chip: chip.slice_index)(device_array(mesh, chips))
    for sizes, axis in (((2, 1, 2, 2), 0), ((1, 2, 2, 2), 1), ((1, 1, 8, 1), 2)):
        found = slices(sizes)
        assert found.shape == sizes
        half = sizes[axis] // 2
        assert (np.take(found, range(half), axis) == 0).all() and (np.take(found, range(half, 2 * half), axis) == 1).all()
    found = slices((2, 1, 2, 2), [Chip(i, i // 2) for i in range(8)])
    assert (found == found[..., :1]).all() and len(np.unique(found)) == 4, "four slices over two axes"
    with pytest.raises(UserError, match=r"^mesh: the 2 slices differ in their number of devices$"):
        device_array((1, 1, 8, 1), [Chip(i, i // 5) for i in range(8)])
    message = "mesh: replica 1 x data 1 x fsdp 1 x tensor 8: replica x data x fsdp must be a multiple of the number of slices, 2"
    with pytest.raises(UserError, match=message):
        device_array((1, 1, 1, 8), chips)
