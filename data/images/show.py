"""Show a batch of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

IMAGES = 64


def grid(batch: Mapping[str, np.ndarray], labels: Sequence[str], stem: Path) -> list[str]:
    """Write the first images of a batch, with their labels if there are any, to `stem`-batch.png. Return a line that names it."""
    from matplotlib.figure import Figure

    images_BHWC, picture = np.clip(batch["image"][:IMAGES], 0, 1), stem.with_name(f"{stem.name}-batch.png")
    side = int(np.ceil(np.sqrt(len(images_BHWC))))
    figure = Figure(figsize=(1.1 * side, 1.2 * side), layout="constrained")
    for position, image_HWC in enumerate(images_BHWC):
        axes = figure.add_subplot(side, side, position + 1)
        axes.imshow(image_HWC if image_HWC.shape[-1] == 3 else image_HWC[..., 0], cmap="gray", vmin=0, vmax=1)
        if "label" in batch:
            axes.set_title(labels[int(batch["label"][position])], fontsize=7)
        axes.axis("off")
    figure.savefig(picture)
    return [f"{picture} shows {len(images_BHWC)} images of the first batch"]
