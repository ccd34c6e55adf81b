"""Image models: published sizes, the formulas of textbooks, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fmodels.alexnet import AlexNetConfig
from fmodels.axes import split
from fmodels.convnet import ConvNetConfig
from fmodels.efficientnet import efficientnet
from fmodels.inception import InceptionConfig
from fmodels.mixnet import mixnet
from fmodels.mlp import MlpConfig
from fmodels.mobilenet import MobileNetConfig
from fmodels.resnet import ResNetConfig, cifar_resnet, resnet
from fmodels.vgg import vgg
from fmodels.vit import VitConfig, vit

# Config, size of the image, and the number of parameters in print, with a head of 1000 classes (CIFAR: 10).
PUBLISHED = {
    "resnet18": (resnet(18), 224, 11_689_512),
    "resnet34": (resnet(34), 224, 21_797_672),
    "resnet50": (resnet(50), 224, 25_557_032),
    "resnet101": (resnet(101), 224, 44_549_160),
    "resnet152": (resnet(152), 224, 60_192_808),
    "vit-ti/16": (vit("ti", 16), 224, 5_717_416),
    "vit-s/16": (vit("s", 16), 224, 22_050_664),
    "vit-b/16": (vit("b", 16), 224, 86_567_656),
    "vit-l/16": (vit("l", 16), 224, 304_326_632),
    "alexnet": (AlexNetConfig(), 224, 61_100_840),
    "vgg11": (vgg(11), 224, 132_863_336),
    "vgg13": (vgg(13), 224, 133_047_848),
    "vgg16": (vgg(16), 224, 138_357_544),
    "vgg19": (vgg(19), 224, 143_667_240),
    # torchvision counts 138,365,992: its convolutions also have the biases that the batch norm cancels, 4,224 in all.
    "vgg16 with batch norm": (vgg(16, batch_norm=True), 224, 138_365_992 - 4224),
    "inception": (InceptionConfig(), 299, 27_161_264),
    "mobilenet": (MobileNetConfig(), 224, 3_504_872),
    "efficientnet-b0": (efficientnet("b0"), 64, 5_288_548),
    "efficientnet-b1": (efficientnet("b1"), 64, 7_794_184),
    "efficientnet-b2": (efficientnet("b2"), 64, 9_109_994),
    "efficientnet-b3": (efficientnet("b3"), 64, 12_233_232),
    "efficientnet-b4": (efficientnet("b4"), 64, 19_341_616),
    "efficientnet-b5": (efficientnet("b5"), 64, 30_389_784),
    "efficientnet-b6": (efficientnet("b6"), 64, 43_040_704),
    "efficientnet-b7": (efficientnet("b7"), 64, 66_347_960),
    "mixnet-s": (mixnet("s"), 64, 4_134_606),
    "mixnet-m": (mixnet("m"), 64, 5_014_382),
    "mixnet-l": (mixnet("l"), 64, 7_329_252),
    "resnet20": (cifar_resnet(20), 32, 269_722),
    "resnet110": (cifar_resnet(110), 32, 1_727_962),
}


def outputs(config, size: int, channels: int = 3, train: bool = False):
    """Return the shapes of the parameters and of the outputs."""
    model, batch = config.build(), {"image": jnp.zeros((2, size, size, channels))}

    def run():
        params, state = (split(tree)[0] for tree in model.init(jax.random.key(0), batch))
        return params, model.apply(params, state, batch, rng=jax.random.key(1), train=train)[0]

    return jax.eval_shape(run)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_are_those_in_print(name):
    config, size, wanted = PUBLISHED[name]
    params, out = outputs(config, size)
    classes = 10 if size == 32 else 1000
    heads = sum((out[field].shape[-1] + 1) * classes for field in ("pooled", "auxiliary") if field in out)
    assert sum(x.size for x in jax.tree.leaves(params)) + heads == wanted


TEXTBOOK = {
    "784-128": (MlpConfig(hidden=(128,)), 28, 1, 784 * 128 + 128),
    "32/64/64-64": (
        ConvNetConfig(channels=(32, 64, 64), convolutions=(1,), padding="valid", pools=2, batch_norm=False, hidden=(64,)),
        28, 1, 320 + 18_496 + 36_928 + (3 * 3 * 64 * 64 + 64),
    ),
    "6/16-120-84": (
        ConvNetConfig(
            channels=(6, 16), convolutions=(1,), window=5, padding="valid", pools=2, batch_norm=False, hidden=(120, 84)
        ),
        32, 3, 456 + 2416 + 48_120 + 10_164,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTBOOK)
def test_networks_of_textbooks_have_their_parameters(name):
    config, size, channels, wanted = TEXTBOOK[name]
    assert sum(x.size for x in jax.tree.leaves(outputs(config, size, channels)[0])) == wanted


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_delta_rule_gives_the_gradients_of_a_network_of_two_units():
    """x = 2 through ReLU(0.5 x + 0.1) and sigmoid(0.7 a + 0.2), against the label 1 under half the squared error."""
    a = max(0.5 * 2 + 0.1, 0)
    z = 0.7 * a + 0.2
    y = sigmoid(z)
    delta_outer = (y - 1) * y * (1 - y)
    by_hand = {"outer": delta_outer * a, "inner": delta_outer * 0.7 * 2}
    assert (round(z, 4), round(y, 4), round((1 - y) ** 2 / 2, 4)) == (0.97, 0.7251, 0.0378)
    assert {name: round(x, 4) for name, x in by_hand.items()} == {"outer": -0.0603, "inner": -0.0767}

    network = lambda activation: MlpConfig(hidden=(1,), activation=activation).build()
    unit = lambda weight, bias: {"dense_0": {"kernel": jnp.full((1, 1), weight), "bias": jnp.full(1, bias)}}

    def loss(params):
        hidden = network("relu").apply(params["inner"], {}, {"image": jnp.full((1, 1, 1, 1), 2.0)})[0]["pooled"]
        out = network("sigmoid").apply(params["outer"], {}, {"image": hidden[:, None, None]})[0]["pooled"]
        return 0.5 * jnp.square(1 - out).sum()

    value, gradient = jax.value_and_grad(loss)({"inner": unit(0.5, 0.1), "outer": unit(0.7, 0.2)})
    np.testing.assert_allclose(value, (1 - y) ** 2 / 2, rtol=1e-6)
    for name, wanted in by_hand.items():
        np.testing.assert_allclose(gradient[name]["dense_0"]["kernel"], [[wanted]], rtol=1e-5)


FUNCTIONS = {"relu": lambda x: np.maximum(x, 0), "sigmoid": sigmoid, "tanh": np.tanh}


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_activations_have_their_names(activation):
    config = MlpConfig(hidden=(3,), activation=activation)
    kernel, bias = np.float32([[1, -2, 0.5], [0.3, 0.1, -1]]), np.float32([0.1, 0.2, 0.3])
    image = np.float32([0.7, -1.5])
    params = {"dense_0": {"kernel": kernel, "bias": bias}}
    found = config.build().apply(jax.tree.map(jnp.asarray, params), {}, {"image": jnp.asarray(image).reshape(1, 1, 2, 1)})
    np.testing.assert_allclose(found[0]["pooled"][0], FUNCTIONS[activation](image @ kernel + bias), rtol=1e-6)


def test_pooling_of_vit_chooses_the_class_token_or_the_mean():
    assert outputs(VitConfig(layers=1, width=8, heads=2, patch=4), 12)[1]["hidden"].shape == (2, 9, 8)
    params, out = outputs(VitConfig(layers=1, width=8, heads=2, patch=4, pooling="mean", position="sinusoidal"), 12)
    assert out["pooled"].shape == (2, 8)
    assert "class_embedding" not in params
    assert "position_embedding" not in params


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: outputs(vit("ti", 16), 40), "model.patch 16 does not divide images of 40x40"),
        (lambda: outputs(vit("ti", 16, max_length=4), 32), "5 patches and class tokens, more than model.max_length 4"),
        (lambda: VitConfig(position="rotary"), "position rotary is for texts: choose learned, sinusoidal or none"),
        (lambda: cifar_resnet(21), r"depth must be 6n \+ 2"),
        (lambda: ResNetConfig(shortcut="zeros"), "shortcut zeros needs block basic"),
        (lambda: ConvNetConfig(convolutions=(1, 2)), "convolutions must be one positive number, or one for each of 3 stages"),
        (lambda: ConvNetConfig(pools=4), r"pools must be 0 to 3 \(the number of stages\), or None, not 4"),
        (lambda: outputs(AlexNetConfig(), 32), "is smaller than a window"),
    ],
)
def test_invalid_configs_and_images_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()
