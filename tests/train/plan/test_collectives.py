"""What the chips of a step say to each other, as the TPU compiler has it."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest

from tests.train.experiments import LENGTH, ROWS, bert, program
from train.runs.integrity import checksum
from train.sharding import Mesh
from train.step import build

WIDE = {"width": 1024, "heads": 8, "hidden": 1024, "vocab_size": 1024, "layers": 2}  # 128 a chip: it scatters no less
KERNEL = 1024 * 1024


@pytest.fixture
def compiled_for_tpu(uncached, monkeypatch):
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
