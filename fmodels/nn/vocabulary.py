"""The number of rows of a token embedding."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

Config = TypeVar("Config")
MULTIPLE = 128  # the lanes of a TPU; a multiple of 64 is enough for a GPU


def with_vocabulary(config: Config, facts: Mapping[str, Any]) -> Config:
    """Return `config` with `vocab_size` filled from the data if it is None, rounded up to a multiple of 128.

    Raises ValueError if `vocab_size` is less than the data needs.
    """
    needed, size = facts.get("vocab_size"), getattr(config, "vocab_size")  # noqa: B009, a field of any config
    if needed is None or (size is not None and size >= needed):
        return config
    if size is not None:
        raise ValueError(f"vocab_size is {size}, but the data has {needed}: set it to {needed} or more")
    return replace(config, vocab_size=needed + -needed % MULTIPLE)  # pyright: ignore[reportArgumentType]


def check_vocabulary(vocab_size: int | None) -> None:
    """Raises ValueError if the field is not a size."""
    if vocab_size is not None and vocab_size < 1:
        raise ValueError(f"vocab_size must be at least 1, not {vocab_size}")
