"""VGG (Simonyan and Zisserman 2015): stages of 3x3 convolutions and max pooling, and two wide dense layers."""

from fmodels.convnet import ConvNetConfig

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


def vgg(depth: int, **changes) -> ConvNetConfig:
    """Return the config of a VGG with 11, 13, 16 or 19 layers, with any fields overridden: `vgg(16, batch_norm=True)`."""
    fields = {
        "channels": (64, 128, 256, 512, 512),
        "convolutions": CONVOLUTIONS[depth],
        "pools": 5,
        "batch_norm": False,
        "hidden": (4096, 4096),
        "dropout": 0.5,
    }
    return ConvNetConfig(**{**fields, **changes})
