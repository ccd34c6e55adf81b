"""Image models equal those of torchvision and transformers on the weights of tests/goldens/make_vision.py, and their parameters
convert both ways."""

import io
import os
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from fmodels.axes import split
from fmodels.efficientnet import efficientnet
from fmodels.mobilenet import MobileNetConfig
from fmodels.nn.heads import ClassifierHead
from fmodels.resnet import cifar_resnet, resnet
from fmodels.vit import VitConfig
from fmodels.weights import efficientnet as efficientnet_weights
from fmodels.weights import mobilenet as mobilenet_weights
from fmodels.weights import resnet as resnet_weights
from fmodels.weights import vit as vit_weights
from fmodels.weights.modules import Modules, from_torch, to_torch
from tests.goldens.drawn import drawn, images

GOLDENS = Path(__file__).parents[1] / "goldens" / "vision.npz"
VIT = VitConfig(layers=3, width=24, heads=3, hidden=40, patch=4, norm_epsilon=1e-12)
CIFAR = {depth: cifar_resnet(depth) for depth in (20, 32, 44, 56)}


class Family(NamedTuple):
    config: Any
    size: int
    modules: Modules | None  # None: of vit_weights


FAMILIES = {
    "resnet18": Family(resnet(18), 40, resnet_weights.modules(resnet(18))),
    "resnet50": Family(resnet(50), 40, resnet_weights.modules(resnet(50))),
    "resnet20": Family(CIFAR[20], 20, resnet_weights.modules(CIFAR[20])),
    "mobilenet": Family(MobileNetConfig(), 40, mobilenet_weights.modules()),
    "efficientnet": Family(efficientnet("b1", norm_epsilon=1e-5), 40, efficientnet_weights.modules(efficientnet("b1"))),
    "vit": Family(VIT, 12, None),
}


def zeros(family: Family, classes: int = 7) -> tuple[dict, dict]:
    """Return parameters with a head, and a model state, of the right shapes."""
    model, batch = family.config.build(), {"image": jnp.zeros((1, family.size, family.size, 3))}

    def init():
        params, state = (split(tree)[0] for tree in model.init(jax.random.key(0), batch))
        pooled = model.apply(params, state, batch)[0]["pooled"]
        head = {"kernel": jnp.zeros((pooled.shape[-1], classes)), "bias": jnp.zeros(classes)}
        return {"model": params, "head": {"classifier": {"dense": head}}}, state

    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(init))


def to_published(family: Family, params: dict, state: dict) -> dict[str, np.ndarray]:
    return vit_weights.to_hf(params) if family.modules is None else to_torch(family.modules, params, state)


def from_published(family: Family, tensors: dict[str, np.ndarray]) -> tuple[dict, dict]:
    return (vit_weights.from_hf(tensors), {}) if family.modules is None else from_torch(family.modules, tensors)


def logits(config: Any, params: dict, state: dict, image: jax.Array) -> jax.Array:
    out, _ = config.build().apply(params["model"], state, {"image": image})
    classes = params["head"]["classifier"]["dense"]["bias"].shape[0]
    return ClassifierHead(classes).apply({"params": params["head"]["classifier"]}, out["pooled"], train=False)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_match(name):
    family = FAMILIES[name]
    with np.load(GOLDENS) as goldens:
        wanted = goldens[name]
    tensors = {key: drawn(key, x.shape) for key, x in to_published(family, *zeros(family, wanted.shape[1])).items()}
    params, state = from_published(family, tensors)
    found = jax.jit(logits, static_argnums=0)(family.config, params, state, images(2, family.size))
    assert wanted.std(0).mean() > 1e-2 * wanted.std()  # the logits depend on the image
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * wanted.std())
    back = to_published(family, params, state)
    assert back.keys() == tensors.keys()
    assert all(back[key].tobytes() == x.tobytes() and back[key].shape == x.shape for key, x in tensors.items())


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_tensors_that_are_missing_or_unknown_are_refused(name):
    family = FAMILIES[name]
    tensors = to_published(family, *zeros(family))
    first = next(iter(tensors))
    with pytest.raises(ValueError, match="is missing"):
        from_published(family, {key: x for key, x in tensors.items() if key != first})
    with pytest.raises(ValueError, match=r"surplus\.weight is not a parameter"):
        from_published(family, {**tensors, "surplus.weight": tensors[first]})


@pytest.mark.slow
@pytest.mark.skipif("FMODELS_DATA" not in os.environ, reason="FMODELS_DATA is not set")
@pytest.mark.parametrize("depth", CIFAR)
def test_trained_networks_classify_each_test_image_like_pytorch(depth):
    raw_data = Path(os.environ["FMODELS_DATA"])
    (path,) = (raw_data / "weights_resnet_cifar10").glob(f"resnet{depth}-*.safetensors")
    params, state = from_torch(resnet_weights.modules(CIFAR[depth]), load_file(path))
    found = []
    with tarfile.open(raw_data / "cifar10" / "cifar10_jpg.tar.xz") as archive:
        for member in archive:
            if member.isfile() and "/test/" in f"/{member.name}":
                file = archive.extractfile(member)
                assert file is not None
                found.append((member.name, np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB"))))
    found.sort(key=lambda row: row[0])
    every = 1 if depth == 20 else 10
    found = found[::every]
    image = ((np.stack([row[1] for row in found]) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)).astype(np.float32)
    classify = jax.jit(lambda params, state, rows: logits(CIFAR[depth], params, state, rows).argmax(-1))
    guesses = np.concatenate([classify(params, state, rows) for rows in np.split(image, 20)])
    with np.load(GOLDENS) as goldens:
        np.testing.assert_array_equal(guesses, goldens[f"classes_resnet{depth}"][::every])
