"""Images of held-out splits that are also in train, for `data inspect`."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from data.dataset import Examples

# Limits of memory and time. Of more images, evenly spaced ones are compared.
HELD_OUT, TRAIN, CHUNK = 10_000, 100_000, 256


def lines(splits: Mapping[str, Examples]) -> list[str]:
    """Return a line for each held-out split: how many of its images have the pixels of a training image, and an example."""
    train = {digest: row for row, digest in pixels(splits["train"], TRAIN)}
    rows, found = len(splits["train"]), []
    for split in (split for split in splits if split != "train"):
        held_out = list(pixels(splits[split], HELD_OUT))
        pairs = [(row, train[digest]) for row, digest in held_out if digest in train]
        line = (
            f"{len(pairs):,} of {len(held_out):,} images of {split} have the same pixels as one in train "
            f"(compared with {min(TRAIN, rows):,} of {rows:,} images of train)"
        )
        found.append(f"warning: {line}; for example row {pairs[0][0]} and, in train, row {pairs[0][1]}" if pairs else line)
    return found


def pixels(examples: Examples, limit: int) -> Iterator[tuple[int, bytes]]:
    """Yield the index and a 16-byte hash of at most `limit` evenly spaced images."""
    chosen = np.arange(0, len(examples), max(-(-len(examples) // limit), 1))
    for at in range(0, len(chosen), CHUNK):
        indices = chosen[at : at + CHUNK]
        for row, image_HWC in zip(indices.tolist(), examples[indices]["image"], strict=True):
            yield row, hashlib.blake2b(image_HWC.tobytes(), digest_size=16).digest()
