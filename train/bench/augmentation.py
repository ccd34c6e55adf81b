"""Time random changes of images on the device, and the same changes on the host with NumPy and Pillow.

    python -m train.bench.augmentation                     # milliseconds per batch of 64 images

The host changes images in one thread, which on a machine with few cores takes time from a step on the CPU. On an accelerator, it
must keep up with the step. On two CPU cores with JAX 0.12, crop and flip of 64 images of 32 x 32 took 0.5 ms on the device and
2.3 ms on the host, which is why the device changes images.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from train.allocator import keep_freed_memory

BATCH = 64
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def crop_and_flip(image_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pad by 4 pixels, crop at random, and mirror half of the images, with NumPy."""
    height, width, _ = image_HWC.shape
    top, left = rng.integers(9, size=2)
    cropped = np.pad(image_HWC, [(4, 4), (4, 4), (0, 0)])[top : top + height, left : left + width]
    return cropped[:, ::-1] if rng.random() < 0.5 else cropped


def resized_crop(image_HWC: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut out a random half of the area and resize it, with Pillow."""
    from PIL import Image

    height, width, _ = image_HWC.shape
    tall, wide = height / 2**0.5, width / 2**0.5
    top, left = rng.random() * (height - tall), rng.random() * (width - wide)
    picture = Image.fromarray((image_HWC * 255).astype(np.uint8))
    resized = picture.resize((width, height), Image.Resampling.BILINEAR, (left, top, left + wide, top + tall))
    return np.asarray(resized, np.float32) / 255


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def on_device(images_BHWC: np.ndarray, augment: Any, rounds: int) -> float:
    import jax

    placed, keys = jax.device_put(images_BHWC), jax.random.split(jax.random.key(0), len(images_BHWC))
    change = jax.jit(augment.__call__)
    return milliseconds(lambda: jax.block_until_ready(change(placed, keys)), rounds)


def on_host(images_BHWC: np.ndarray, change: Change, rounds: int) -> float:
    rng = np.random.default_rng(0)
    return milliseconds(lambda: np.stack([change(image_HWC, rng) for image_HWC in images_BHWC]), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    keep_freed_memory()
    import jax

    from train.objectives.augmentation import Augmentation

    cases: dict[str, tuple[Augmentation, Change | None]] = {
        "crop and flip": (Augmentation(crop=4, flip=True), crop_and_flip),
        "resized crop": (Augmentation(resized_crop=0.5), resized_crop),
        "color jitter": (Augmentation(color_jitter=0.4), None),
        "two operations of RandAugment": (Augmentation(operations=2), None),
    }
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}; ms per batch of {BATCH}, median of {options.rounds}")
    print(f"{'':44}{'device':>10}{'host':>10}")
    for size in (32, 224):
        images_BHWC = np.random.default_rng(0).random((BATCH, size, size, 3), np.float32)
        for name, (augment, change) in cases.items():
            host = f"{on_host(images_BHWC, change, options.rounds):.1f}" if change else ""
            print(f"{f'{size} x {size}, {name}':44}{on_device(images_BHWC, augment, options.rounds):>10.1f}{host:>10}")


if __name__ == "__main__":
    main()
