"""Names of MobileNet-V2 in torchvision."""

from fmodels.mobilenet import STAGES
from fmodels.weights.modules import NORM, Modules
from fmodels.weights.rules import DENSE, KERNEL


def modules() -> Modules:
    """Return the modules of a network with its classifier."""
    found = {"features.0.0": ("model/stem/conv", KERNEL), "features.0.1": ("model/stem/norm", NORM)}
    number = 0
    for i, (expansion, _, blocks, _) in enumerate(STAGES):
        for j in range(blocks):
            number += 1
            theirs, ours = f"features.{number}.conv", f"model/stage_{i}_block_{j}"
            places = ["0.0", "0.1", "1.0", "1.1", "2", "3"] if expansion > 1 else ["0.0", "0.1", "1", "2"]
            layers = ["expand", "depthwise", "project"] if expansion > 1 else ["depthwise", "project"]
            for layer, conv, norm in zip(layers, places[::2], places[1::2], strict=True):
                found[f"{theirs}.{conv}"] = (f"{ours}/{layer}/part_0", KERNEL)
                found[f"{theirs}.{norm}"] = (f"{ours}/{layer}_norm", NORM)
    found |= {f"features.{number + 1}.0": ("model/top/conv", KERNEL), f"features.{number + 1}.1": ("model/top/norm", NORM)}
    return {**found, "classifier.1": ("head/classifier/dense", DENSE)}
