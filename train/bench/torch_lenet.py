"""Train the network of PyTorch's CIFAR-10 tutorial in PyTorch, on the same files as the recipe `cifar10-lenet`.

    python -m train.bench.torch_lenet FOLDER               # train/CLASS/*.jpg and test/CLASS/*.jpg; needs torch
    python -m train.bench.torch_lenet FOLDER --linear      # the learning rate falls to 0, as in the recipe

Two epochs of batches of 4 by SGD with momentum, as in the tutorial, with PyTorch's own initialization and images in [-1, 1]. The
tutorial's learning rate is constant.
"""

import argparse
import time
from pathlib import Path

import numpy as np


def load(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the images of a folder of class folders, [N, C, H, W] in [-1, 1], and their labels."""
    from PIL import Image

    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    files = [(file, label) for label, name in enumerate(classes) for file in sorted((folder / name).iterdir())]
    pixels = np.stack([np.asarray(Image.open(file), np.float32) for file, _ in files])
    return (pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5, np.array([label for _, label in files])


def accuracy(folder: Path, seed: int, linear: bool) -> float:
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(2)
    torch.manual_seed(seed)
    (images, labels), (test_images, test_labels) = (
        (torch.from_numpy(x), torch.from_numpy(y)) for x, y in (load(folder / split) for split in ("train", "test"))
    )
    network = nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    batches = [rows for _ in range(2) for rows in torch.randperm(len(images)).split(4)]
    factor = lambda step: 1 - step / len(batches) if linear else 1.0
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for rows in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images[rows]), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float((network(test_images).argmax(1) == test_labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--linear", action="store_true")
    options = parser.parse_args()
    found = []
    for seed in range(options.seeds):
        start = time.perf_counter()
        found.append(accuracy(options.folder, seed, options.linear))
        print(f"seed {seed}: accuracy {found[-1]:.4f} on test, {time.perf_counter() - start:.0f} s", flush=True)
    print(f"{np.mean(found):.4f} ± {np.std(found, ddof=1):.4f}")


if __name__ == "__main__":
    main()
