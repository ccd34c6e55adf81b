"""Tables that rename and transpose parameters from and to Hugging Face (HF) `transformers`.

Dense weights are [out, in] in HF and [in, out] here; convolution kernels [out, in, height, width] and [height, width, in, out].
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

# Parameter names of each module type: HF name -> our name.
DENSE = {"weight": "kernel", "bias": "bias"}
KERNEL = {"weight": "kernel"}
NORM = {"weight": "scale", "bias": "bias"}
SCALE = {"weight": "scale"}
EMBED = {"weight": "embedding"}
BIAS = {"bias": "bias"}
PLAIN = {"weight": ""}  # our path is that of the parameter
BARE = {"": ""}  # so is the name in HF

# The dimensions of the other side, in the order of this side, by the number of dimensions of a kernel.
OUR_ORDER = {2: (1, 0), 4: (2, 3, 1, 0)}
HF_ORDER = {2: (1, 0), 4: (3, 2, 0, 1)}

Module = tuple[str, str, Mapping[str, str], str]
"""HF module, our path (# is the layer number), parameter names, and the HF shape of the first parameter as letters."""


class Rule(NamedTuple):
    """Names and shapes of one parameter, each as (HF, ours)."""

    names: tuple[str, str]
    shapes: tuple[str, str]

    def match(self, name: str, side: int) -> re.Match | None:
        return re.fullmatch(re.escape(self.names[side]).replace(r"\#", r"(0|[1-9]\d*)"), name)


class Table:
    """The parameters of a family. Checkpoints may omit modules with a path that matches `optional`, as a whole."""

    def __init__(
        self, family: str, modules: Iterable[Module], optional: str = r"head/\w+", sizes: Mapping[str, int] | None = None
    ):
        self.family, self.optional, self.sizes = family, re.compile(optional), dict(sizes or {})
        self.rules = tuple(self._rules(modules))

    @staticmethod
    def _rules(modules: Iterable[Module]):
        for hf_module, our_path, parameters, shape in modules:
            for hf_name, our_name in parameters.items():
                size = shape[0] if hf_name == "bias" else shape  # a bias has the first dimension of its weight
                our_size = "".join(size[i] for i in OUR_ORDER[len(size)]) if our_name == "kernel" else size
                yield Rule((f"{hf_module}.{hf_name}".rstrip("."), f"{our_path}/{our_name}".rstrip("/")), (size, our_size))

    def from_hf(self, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return the parameters as a tree, in float32, with unscanned layers."""
        return unflatten_dict(self._translate({k: np.asarray(v, np.float32) for k, v in tensors.items()}, source=0), sep="/")

    def to_hf(self, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return the tensors of HF: the inverse of `from_hf`."""
        return self._translate({k: np.asarray(v) for k, v in flatten_dict(params, sep="/").items()}, source=1)

    def _translate(self, tensors: dict[str, np.ndarray], source: int) -> dict[str, np.ndarray]:
        """Rename and transpose tensors from side `source` (0: HF, 1: ours) to the other; check names, shapes and completeness."""
        found, sizes, layers, groups = {}, dict(self.sizes), 1, set()
        for name, tensor in tensors.items():
            matches = [(rule, match) for rule in self.rules if (match := rule.match(name, source))]
            if len(matches) != 1:
                problem = f"matches {len(matches)} rules" if matches else f"is not a parameter of {self.family}"
                raise ValueError(f"{name} {problem}")
            rule, match = matches[0]
            index, shape = "".join(match.groups()), rule.shapes[source]
            if tensor.ndim != len(shape) or any(sizes.setdefault(d, n) != n for d, n in zip(shape, tensor.shape, strict=True)):
                expected = ", ".join(str(sizes.get(d, d)) for d in shape)
                raise ValueError(f"{name} has shape {list(tensor.shape)}; the other tensors require [{expected}]")
            layers = max(layers, int(index or 0) + 1)
            groups.update(self.optional.findall(rule.names[1]))
            if rule.names[1].endswith("/kernel"):
                tensor = tensor.transpose((OUR_ORDER, HF_ORDER)[source][tensor.ndim])
            found[rule.names[1 - source].replace("#", index)] = np.ascontiguousarray(tensor)
        for rule in self.rules:
            for index in map(str, range(layers if "#" in rule.names[0] else 1)):
                name, target = (rule.names[side].replace("#", index) for side in (source, 1 - source))
                if target not in found and groups.issuperset(self.optional.findall(rule.names[1])):
                    raise ValueError(f"{name} is missing")
        return found


def without_copies(tensors: Mapping[str, np.ndarray], copies: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Return the tensors without those of `copies` (copy -> original). Raises ValueError for a copy that differs."""
    for copy, original in copies.items():
        if copy in tensors and original in tensors and not np.array_equal(tensors[copy], tensors[original]):
            raise ValueError(f"{copy} differs from {original}; the head requires tied weights")
    return {name: tensor for name, tensor in tensors.items() if name not in copies}
