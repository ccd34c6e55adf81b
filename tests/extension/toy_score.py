"""An objective outside of the project with a metric that is not a ratio of sums: the median error over a split."""

from dataclasses import dataclass
from statistics import median

from toy_objective import Total


@dataclass(frozen=True)
class TotalWithMedian(Total):
    scores = ("median_error",)
    minimized = ("median_error",)

    def score(self, predictions, references):
        return {"median_error": median(abs(p["total"] - r) for p, r in zip(predictions, references, strict=True))}
