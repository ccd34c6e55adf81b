"""MovieLens (Harper and Konstan 2015), in the form of its own files: who gave which film how many stars, and when.

Ratings are in the order of the file, user after user; `data.splits` says what is held out.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data import builders

FILES = ("ratings.csv", "movies.csv")


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    name = "movielens_csv"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"{' and '.join(FILES)}, as the archive of ml-latest-small or another has them"

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "user": np.int32,
            "movie": np.int32,
            "rating": np.float32,  # stars, by halves
            "timestamp": np.int64,  # seconds since 1970
            "title": tfds.features.Text(),
            "genres": tfds.features.Text(),  # with | between two
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Ratings of films, with their titles and genres.",
            homepage="https://grouplens.org/datasets/movielens",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        ratings, movies = (builders.raw(Path(dl_manager.manual_dir), name) for name in FILES)
        return {"train": self._generate_examples(ratings, {row["movieId"]: row for row in _rows(movies)})}

    def _generate_examples(self, ratings: Path, movies: dict[str, dict]) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, row in enumerate(_rows(ratings)):
            movie = movies[row["movieId"]]
            yield (
                number,
                {
                    "user": int(row["userId"]),
                    "movie": int(row["movieId"]),
                    "rating": float(row["rating"]),
                    "timestamp": int(row["timestamp"]),
                    "title": movie["title"],
                    "genres": movie["genres"],
                },
            )


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)
