"""Memory use does not grow with the data: a source much larger than the allowance is cleaned, cached and read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
ALLOWANCE = 160  # MiB above the memory used for 100 rows

PROGRAM = """
import resource, sys
from dataclasses import dataclass
import numpy as np
from data.text.documents import documents
from data.images.labelled import Images
from data.loader import Batches, Loader
from data.text.language_modelling import Text

@dataclass(frozen=True)
class Endless:
    rows: int
    kind: str
    def stamp(self):
        return {"rows": str(self.rows)}
    def splits(self, wanted, names):
        return {"train": self, "test": Endless(50, self.kind)}
    def __iter__(self):
        rng = np.random.default_rng(0)
        for i in range(self.rows):
            if self.kind == "text":
                yield {"text": f"{i} " + "word " * 800}
            else:
                yield {"image": rng.integers(0, 256, (64, 64, 3), np.uint8), "label": i % 7}

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def images(rows):
    dataset = Images(source=Endless(rows, "image"), shape=(64, 64, 3), batch_size=64).build()
    loader = Loader(Batches(dataset.splits["train"], 64, 0))
    for _ in range(100):
        next(loader)

def text(rows):
    for chunk in documents(Text(source=Endless(rows, "text"))).chunks("train", 0):
        pass

make = {"images": images, "text": text}[sys.argv[1]]
make(100)
before = peak()
make(int(sys.argv[2]))
print(peak() - before)
"""


@pytest.mark.parametrize(("kind", "rows", "size"), [("images", 50_000, 64 * 64 * 3), ("text", 150_000, 4000)])
def test_memory_stays_below_the_allowance_for_large_sources(tmp_path, kind, rows, size):
    assert rows * size > 3.5 * ALLOWANCE * 2**20
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FMODELS_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", PROGRAM, kind, str(rows)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < ALLOWANCE, f"{done.stdout} MiB more than for 100 rows"
