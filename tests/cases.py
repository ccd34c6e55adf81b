"""Named cases of a test, of which a few are run by default."""

from collections.abc import Collection, Mapping
from typing import Any

import pytest


def cases(named: Mapping[str, Any], fast: Collection[str]) -> list:
    """Return the cases as test parameters; a tuple has one value for each argument. Those not in `fast` are marked slow."""
    assert named.keys() >= set(fast), f"no such case: {set(fast) - named.keys()}"
    values = {name: case if isinstance(case, tuple) else (case,) for name, case in named.items()}
    return [pytest.param(*value, id=name, marks=() if name in fast else pytest.mark.slow) for name, value in values.items()]
