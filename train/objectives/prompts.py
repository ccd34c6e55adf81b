"""Prompts: what an objective and its codec make of the rows from which to generate texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Ids = np.ndarray  # int32 [t]


@dataclass(frozen=True)
class Prompts:
    """The beginning of each text, as ids, and how to read the ids that follow."""

    tokens: Sequence[Ids]
    "the first ids of each text: a prompt, or a start token"
    text: Callable[[Ids, Sequence[int]], str]
    "function (first ids, ids after them) -> the text of the latter; that of more ids begins with it, up to half characters"
    stop: tuple[int, ...]
    "ids that end a text"
    pad: int
    vocab_size: int
    never: tuple[int, ...] = ()
    "ids that do not occur in a text"
    is_continued: bool = False
    "whether the text continues that of the row, and may go on without its beginning"
    sources: Mapping[str, Sequence[Ids]] = field(default_factory=dict)
    "other fields of the batch, each padded on the right, with `NAME_mask`"
    notes: Sequence[str] = ()
    "messages for the user"


def roles(vocabulary: Any) -> dict[str, Any]:
    """Return the fields of `Prompts` about ids, for texts that end with [SEP] and have no other special token."""
    stop = (vocabulary.special["sep"],)
    never = tuple(set(vocabulary.special_ids) - set(stop))
    return {"stop": stop, "pad": vocabulary.special["pad"], "vocab_size": vocabulary.vocab_size, "never": never}
