"""Throughput of the data loader on this machine, without a model."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

SECONDS, ROUNDS = 3.0, 3
BATCH, LENGTH, JPEG_SIDE, JPEGS, THREADS = 64, 512, 224, 256, 2


def measure() -> dict[str, Any]:
    """Measure packed tokens per second of the built-in corpus, images per second from memory, and decoded JPEGs per second of the
    loader and of a plain Pillow loop with the same number of threads. Each figure is the best of `ROUNDS`."""
    return {**tokens(), **images(), **jpegs()}


def tokens() -> dict[str, Any]:
    from data.text.language_modelling import Text

    config = Text(source="pydocs", layout="packed", length=LENGTH, batch_size=BATCH)
    dataset = config.build()
    train = dataset.splits["train"]
    fill = dataset.about["tokens of train"]["share of rows filled"]
    rows = best(lambda: rate(train, BATCH))
    return {"packed_rows": len(train), "packed_fill": fill, "packed_tokens_per_second": rows * LENGTH * fill}


def images() -> dict[str, Any]:
    from data.dataset import Columns

    rng = np.random.default_rng(0)
    pixels = rng.random((10_000, 28, 28, 1), np.float32)
    examples = Columns({"image": pixels, "label": rng.integers(10, size=len(pixels), dtype=np.int32)})
    return {"memory_images_per_second": best(lambda: rate(examples, 256))}


def jpegs() -> dict[str, Any]:
    """Measure on crops of the photographs that scikit-learn ships."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    from data.images.stored import ImageCodec

    rng, encoded = np.random.default_rng(0), []
    photographs = load_sample_images().images
    for i in range(JPEGS):
        photograph = photographs[i % len(photographs)]
        top, left = (int(rng.integers(size - JPEG_SIDE)) for size in photograph.shape[:2])
        file = io.BytesIO()
        Image.fromarray(photograph[top : top + JPEG_SIDE, left : left + JPEG_SIDE]).save(file, "JPEG", quality=90)
        encoded.append(file.getvalue())

    codec = ImageCodec((JPEG_SIDE, JPEG_SIDE, 3), False, False, ())

    class Encoded:
        def __len__(self) -> int:
            return JPEGS

        def __getitem__(self, indices: np.ndarray, /) -> dict[str, np.ndarray]:
            return {"image": np.stack([codec.pixels(encoded[i]) for i in indices])}

    def bare() -> float:
        decode = lambda jpeg: np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))
        with ThreadPoolExecutor(THREADS) as pool:
            began = time.perf_counter()
            for _ in pool.map(decode, encoded, chunksize=32):
                pass
            return JPEGS / (time.perf_counter() - began)

    loader_rates, bare_rates = [], []
    for _ in range(ROUNDS):
        loader_rates.append(rate(Encoded(), 32))
        bare_rates.append(bare())
    return {
        "jpegs_per_second": max(loader_rates),
        "jpegs_per_second_of_a_bare_loop": max(bare_rates),
        "jpeg_share_of_a_bare_loop": max(loader_rates) / max(bare_rates),
    }


def rate(examples: Any, batch_size: int) -> float:
    """Measure the rows per second of the loader."""
    from data.loader import Batches, Loader

    with Loader(Batches(examples, batch_size, 0), threads=THREADS) as loader:
        for _ in range(5):
            next(loader)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < SECONDS / ROUNDS:
            next(loader)
            count += 1
        return batch_size * count / (time.perf_counter() - began)


def best(measured: Any) -> float:
    return max(measured() for _ in range(ROUNDS))
