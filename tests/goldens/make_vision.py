"""Write the goldens of image models: the logits of torchvision and transformers for the weights and images of `drawn.py`, and the
classes that trained CIFAR-10 networks give to the test images.

    PYTHONPATH=tests/goldens FMODELS_DATA=… python tests/goldens/make_vision.py

Needs torch, torchvision, transformers and pillow, which the tests do not need. The files were made with torch 2.13.0 (CPU),
torchvision 0.28.0 and transformers 5.24.0.
"""

import io
import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision
import transformers
from drawn import drawn, images
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional

HERE = Path(__file__).parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIT = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 12,
    "patch_size": 4,
    "num_labels": 7,
}


def logits(model: nn.Module, size: int) -> np.ndarray:
    model.eval()
    with torch.no_grad():
        return model(torch.from_numpy(images(2, size)).permute(0, 3, 1, 2)).numpy()


def with_drawn_weights(model: nn.Module) -> nn.Module:
    state = {name: x if x.ndim == 0 else torch.from_numpy(drawn(name, tuple(x.shape))) for name, x in model.state_dict().items()}
    model.load_state_dict(state)
    return model


def vit() -> np.ndarray:
    """Return the logits of ViT with weights drawn by the names of its published format."""
    with tempfile.TemporaryDirectory() as folder:
        transformers.ViTForImageClassification(transformers.ViTConfig(**VIT)).save_pretrained(folder)
        path = Path(folder, "model.safetensors")
        state = {name: torch.from_numpy(drawn(name, tuple(x.shape))) for name, x in load_file(path).items()}
        save_file(state, path, metadata={"format": "pt"})
        model = transformers.ViTForImageClassification.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.from_numpy(images(2, 12)).permute(0, 3, 1, 2)).logits.numpy()


class CifarBlock(nn.Module):
    """The basic block of `pytorch_resnet_cifar10`, with option A."""

    def __init__(self, into: int, out: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.stride, self.extra = stride, (out - into) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.relu(y + functional.pad(x, (0, 0, 0, 0, self.extra, self.extra)))


class CifarResNet(nn.Module):
    def __init__(self, blocks: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for i, (into, out) in enumerate(((16, 16), (16, 32), (32, 64))):
            stage = [CifarBlock(out if j else into, out, 1 if j or not i else 2) for j in range(blocks)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*stage))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.linear(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def cifar_test_images() -> tuple[np.ndarray, np.ndarray]:
    """Return the test images [10000, 32, 32, 3], in the order of class and file name, and their classes."""
    found = []
    with tarfile.open(Path(os.environ["FMODELS_DATA"], "cifar10/cifar10_jpg.tar.xz")) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if member.isfile() and "test" in parts:
                picture = Image.open(io.BytesIO(archive.extractfile(member).read()))
                found.append((parts[-2], parts[-1], np.asarray(picture.convert("RGB"))))
    found.sort(key=lambda row: row[:2])
    classes = sorted({row[0] for row in found})
    return np.stack([row[2] for row in found]), np.array([classes.index(row[0]) for row in found])


def main() -> None:
    torch.set_num_threads(2)
    models = torchvision.models
    found = {
        "resnet18": logits(with_drawn_weights(models.resnet18(num_classes=7)), 40),
        "resnet50": logits(with_drawn_weights(models.resnet50(num_classes=7)), 40),
        "resnet20": logits(with_drawn_weights(CifarResNet(3)), 20),
        "mobilenet": logits(with_drawn_weights(models.mobilenet_v2(num_classes=7)), 40),
        "efficientnet": logits(with_drawn_weights(models.efficientnet_b1(num_classes=7)), 40),
        "vit": vit(),
    }
    for name, x in found.items():
        print(f"{name}: std of the logits {x.std():.3f}, between the images {x.std(0).mean():.3f}")
    pictures, classes = cifar_test_images()
    x = torch.from_numpy(((pictures / 255 - MEAN) / STD).astype(np.float32)).permute(0, 3, 1, 2)
    for path in sorted(Path(os.environ["FMODELS_DATA"], "weights_resnet_cifar10").glob("*.safetensors")):
        name = path.name.partition("-")[0]
        model = CifarResNet((int(name.removeprefix("resnet")) - 2) // 6).eval()
        model.load_state_dict(load_file(path), strict=False)
        with torch.no_grad():
            guesses = torch.cat([model(rows).argmax(1) for rows in x.split(500)]).numpy()
        print(f"{name}: accuracy {(guesses == classes).mean():.4f} on {len(classes)} test images")
        found[f"classes_{name}"] = guesses.astype(np.uint8)
    np.savez_compressed(HERE / "vision.npz", **found)
    print((HERE / "vision.npz").stat().st_size, "bytes")


if __name__ == "__main__":
    main()
