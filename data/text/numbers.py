"""Numbers in rows of a source."""

import math
from decimal import Decimal
from numbers import Real
from typing import Any


def number_of(value: Any, name: str) -> float | str:
    """Return a number, or a number written as a string, as a float, or else what is wrong with the field `name`."""
    is_number = isinstance(value, Real | Decimal) and not isinstance(value, bool)
    if not is_number and not isinstance(value, str):
        return f"its {name} is {value if isinstance(value, bool) else type(value).__name__}, not a number"
    try:
        number = float(value)
    except ValueError:
        return f"its {name} is {value!r}, not a number"
    return number if math.isfinite(number) else f"its {name} is {value}, not a finite number"
