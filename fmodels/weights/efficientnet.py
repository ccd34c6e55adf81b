"""Names of EfficientNet in torchvision."""

from fmodels.efficientnet import STAGES, EfficientNetConfig
from fmodels.weights.modules import NORM, Modules
from fmodels.weights.rules import DENSE, KERNEL


def modules(config: EfficientNetConfig) -> Modules:
    """Return the modules of a network with its classifier."""
    found = {"features.0.0": ("model/stem/conv", KERNEL), "features.0.1": ("model/stem/norm", NORM)}
    for i, ((expansion, *_), blocks) in enumerate(zip(STAGES, config.blocks, strict=True)):
        layers = ["expand", "depthwise", "gate", "project"][expansion == 1 :]
        for j in range(blocks):
            for place, layer in enumerate(layers):
                theirs, ours = f"features.{i + 1}.{j}.block.{place}", f"model/stage_{i}_block_{j}/{layer}"
                if layer == "gate":
                    found |= {f"{theirs}.fc1": (f"{ours}/reduce", DENSE), f"{theirs}.fc2": (f"{ours}/expand", DENSE)}
                else:
                    found |= {f"{theirs}.0": (f"{ours}/part_0", KERNEL), f"{theirs}.1": (f"{ours}_norm", NORM)}
    top = f"features.{len(STAGES) + 1}"
    found |= {f"{top}.0": ("model/top/conv", KERNEL), f"{top}.1": ("model/top/norm", NORM)}
    return {**found, "classifier.1": ("head/classifier/dense", DENSE)}
