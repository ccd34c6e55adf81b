"""CIFAR-10 (Krizhevsky 2009) as JPEG files. The compression is lossy: accuracies are a few points below those on `cifar10`."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from data import builders

ARCHIVE = "cifar10_jpg.tar.xz"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "cifar10_jpg"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{ARCHIVE}, containing train/CLASS/NNNN.jpg and test/CLASS/NNNN.jpg"

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "image": tfds.features.Image(shape=(32, 32, 3), encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="60,000 photographs in ten classes, 32x32 pixels, JPEG.",
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        archive = builders.raw(Path(dl_manager.manual_dir), ARCHIVE)
        return {split: self._generate_examples(archive, split) for split in ("train", "test")}

    def _generate_examples(self, archive: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, content in builders.unpacked(archive):
            match = re.fullmatch(rf"{split}/(\w+)/\d+\.jpg", name)
            if match:
                # TFDS stores the content of a file object unchanged, but treats bytes as a path.
                yield name, {"image": io.BytesIO(content), "label": match[1]}
