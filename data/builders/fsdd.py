"""The Free Spoken Digit Dataset (Jackson et al. 2018): ten digits, six speakers, fifty recordings of each, at 8 kHz.

The `test` split holds the first five recordings of each digit by each speaker, as the authors define it.
"""

import io
import re
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data import builders

ARCHIVE = "fsdd.tar.gz"
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
TEST_RECORDINGS = range(5)


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "fsdd"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{ARCHIVE}, containing recordings/DIGIT_SPEAKER_NUMBER.wav"

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            # features.Audio calls TensorFlow. BYTES is a third of the size of a list of numbers.
            "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES),
            "sample_rate": tfds.features.Scalar(np.int32),
            "label": tfds.features.ClassLabel(names=[str(digit) for digit in range(10)]),
            "speaker": tfds.features.ClassLabel(names=SPEAKERS),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="3,000 recordings of spoken English digits: mono, 16 bits, 8 kHz.",
            homepage="https://github.com/Jakobovski/free-spoken-digit-dataset",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("audio", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        archive = builders.raw(Path(dl_manager.manual_dir), ARCHIVE)
        return {split: self._generate_examples(archive, split) for split in ("train", "test")}

    def _generate_examples(self, archive: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, content in builders.unpacked(archive):
            match = re.fullmatch(r"(\d)_([a-z]+)_(\d+)\.wav", Path(name).name)
            if match and (int(match[3]) in TEST_RECORDINGS) == (split == "test"):
                with wave.open(io.BytesIO(content)) as recording:
                    samples = np.frombuffer(recording.readframes(recording.getnframes()), "<i2").astype(np.int16)
                    rate = recording.getframerate()
                yield match[0], {"audio": samples, "sample_rate": rate, "label": match[1], "speaker": match[2]}
