"""Collectives in a training step that the TPU compiler has compiled."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from tests.train.experiments import LENGTH, ROWS, bert, program
from train.runs.integrity import checksum
from train.sharding import Mesh
from train.step import build

pytestmark = pytest.mark.slow

WIDE = {
    "width": 1024,
    "heads": 8,
    "hidden": 1024,
    "vocab_size": 1024,
    "layers": 2,
}  # the compiler scatters no fewer than 128 per chip
KERNEL = 1024 * 1024


@pytest.fixture
def compiled_for_tpu(uncached, monkeypatch):
    """Return a function that compiles a step for eight TPU chips and returns its HLO text."""
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
    """Return every collective as (kind, elements of each output array, op_name). This compiler writes a reduce-scatter as an
    all-reduce in a computation named all-reduce-scatter."""
    found, computation = [], ""
    kinds = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
    for line in re.sub(r"/\*index=\d+\*/", "", text).splitlines():
        if header := re.match(r"%?(\S+) \(.*\{$|ENTRY", line):
            computation = header[1] or ""
        if match := re.search(rf"= (\([^=]*?\)|\S+) ({kinds})(?:-start)?\((.*)", line):
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            sizes = [int(np.prod([int(n) for n in dims.split(",")] if dims else [1])) for dims in shapes]
            op_name = re.search(r'op_name="([^"]*)"', match[3])
            kind = "reduce-scatter" if computation.startswith("all-reduce-scatter") else match[2]
            found.append((kind, sizes, op_name[1] if op_name else ""))
    return found


def sizes_of(kind: str, found: list[tuple[str, list[int], str]]) -> list[int]:
    return [size for other, sizes, _ in found for size in sizes if other == kind]


def test_data_parallelism_all_reduces_whole_gradients(compiled_for_tpu):
    found = collectives(compiled_for_tpu(Mesh(data=8)))
    assert sizes_of("all-reduce", found).count(KERNEL) == 2 * 6 + 3  # two blocks; pooler, head and vocabulary
    assert {kind for kind, *_ in found} == {"all-reduce"}


@pytest.mark.parametrize("how", [{}, {"scan": True}, {"accumulation": 2}], ids=["plain", "scanned", "accumulated"])
def test_fsdp_gathers_parameters_and_scatters_gradients(compiled_for_tpu, how):
    found = collectives(compiled_for_tpu(Mesh(data=1, fsdp=8), **how))
    assert len([size for size in sizes_of("all-gather", found) if size >= KERNEL]) >= 6 * (1 if "scan" in how else 2)
    assert sizes_of("reduce-scatter", found)
    assert max(sizes_of("all-reduce", found)) <= 2 * 1024, "only vectors and the table of two segments"
    moved = [op_name for kind, sizes, op_name in found if kind != "all-reduce" and max(sizes) >= ROWS * 1024]
    if not how:  # with scan or accumulation, few collectives have an op_name
        assert all(re.match(r"state\.params|.*/shard_map/|$", op_name) for op_name in moved), "activations are not moved"


def test_tensor_parallel_blocks_reduce_twice_per_direction(compiled_for_tpu):
    found = collectives(compiled_for_tpu(Mesh(data=1, tensor=8)))
    stream = ROWS * LENGTH * 1024
    reduced = [op_name for kind, sizes, op_name in found if kind == "all-reduce" and max(sizes) >= stream]
    for layer in ("layer_0", "layer_1"):
        in_layer = [op_name for op_name in reduced if f"/{layer}/" in op_name]
        assert len(in_layer) == 4 and len([op_name for op_name in in_layer if "transpose" in op_name]) == 2, in_layer
    assert len(reduced) == 2 * 4 + 1  # the last is the look-up in the sharded token embedding
    assert not [size for kind in ("all-gather", "all-to-all") for size in sizes_of(kind, found) if size >= stream]


def test_replicas_all_reduce_scattered_gradients(compiled_for_tpu):
    found = collectives(compiled_for_tpu(Mesh(replica=2, data=1, fsdp=2, tensor=2)))
    assert max(sizes_of("all-reduce", found)) == KERNEL // 4
    assert len(sizes_of("all-to-all", found)) == 0


def test_checksums_depend_on_positions_and_gather_nothing():
    built = program(bert(), Mesh(data=2, fsdp=2, tensor=2))
    params = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        built.shapes.params,
        built.shardings.params,
    )
    text = checksum.lower(params).compile().as_text()
    assert "all-reduce" in text and "all-gather" not in text
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    words = x.reshape(-1).view(np.uint32) * (2 * np.arange(x.size, dtype=np.uint32) + 1)
    assert int(checksum({"x": x})) == words.sum(dtype=np.uint32)  # the weight of the only array is 1
    assert int(checksum({"x": x})) != int(checksum({"x": x[::-1]}))
