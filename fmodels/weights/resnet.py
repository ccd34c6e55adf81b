"""Names of ResNet in torchvision and timm, and of the CIFAR form in `pytorch_resnet_cifar10` (Idelbayev 2018)."""

from fmodels.resnet import ResNetConfig
from fmodels.weights.modules import NORM, Modules
from fmodels.weights.rules import DENSE, KERNEL

HEAD = "head/classifier/dense"


def modules(config: ResNetConfig) -> Modules:
    """Return the modules of a network with its classifier."""
    found = {"conv1": ("model/stem/conv", KERNEL), "bn1": ("model/stem/norm", NORM)}
    convolutions = 2 if config.block == "basic" else 3
    for i, blocks in enumerate(config.depths):
        for j in range(blocks):
            theirs, ours = f"layer{i + 1}.{j}", f"model/stage_{i}_block_{j}"
            for k in range(convolutions):
                found[f"{theirs}.conv{k + 1}"] = (f"{ours}/conv_{k}/conv", KERNEL)
                found[f"{theirs}.bn{k + 1}"] = (f"{ours}/conv_{k}/norm", NORM)
            if config.shortcut == "projection" and not j and (i or config.block == "bottleneck"):
                found[f"{theirs}.downsample.0"] = (f"{ours}/shortcut/conv", KERNEL)
                found[f"{theirs}.downsample.1"] = (f"{ours}/shortcut/norm", NORM)
    return {**found, "linear" if config.shortcut == "zeros" else "fc": (HEAD, DENSE)}
