"""Meshes are made of devices by their sizes; what does not fit, or has no rule, is named before anything is trained."""

import re
from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest

from fmodels.axes import named
from tests.train.experiments import bert, program
from train.errors import UserError
from train.sharding import RULES, Mesh, arranged, check_batch, own_rows


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
        (
            Mesh(data=3),
            "data 3 x fsdp 1 x tensor 1 does not fit 8 cpu device(s); --mesh.AXIS changes one, and -1 takes what is left",
        ),
        (
            Mesh(data=16),
            "data 16 x fsdp 1 x tensor 1 does not fit 8 cpu device(s); --mesh.AXIS changes one, and -1 takes what is left",
        ),
        (
            Mesh(data=1),
            "data 1 x fsdp 1 x tensor 1 does not fit 8 cpu device(s); --mesh.AXIS changes one, and -1 takes what is left",
        ),
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
