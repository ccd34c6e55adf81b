"""Correlation of predicted numbers with the correct ones."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np


def pearson(predicted: Sequence[float], wanted: Sequence[Any]) -> float:
    """Return the linear correlation."""
    from scipy.stats import pearsonr

    return _finite(pearsonr, predicted, wanted)


def spearman(predicted: Sequence[float], wanted: Sequence[Any]) -> float:
    """Return the rank correlation."""
    from scipy.stats import spearmanr

    return _finite(spearmanr, predicted, wanted)


def _finite(correlation: Any, predicted: Sequence[float], wanted: Sequence[Any]) -> float:
    """Return a correlation, or 0 if one side is constant, as at the first step, or has a single number."""
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(wanted) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that are nearly constant
        return float(correlation(predicted, wanted).statistic)
