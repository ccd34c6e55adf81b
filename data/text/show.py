"""Show a batch of tokens."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from data.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    from rich.text import Text

ROWS = 6
COLOURS = {"masked": "black on yellow", "random": "black on red", "kept": "black on green"}


def lines(batch: Mapping[str, np.ndarray], seen: Mapping[str, Any], vocabulary: Tokenizer) -> list["Text"]:
    """Return the first rows of a batch as the network sees them, one line each. Special tokens are dim.

    `seen` is the batch after the objective's corruption. If it has `hidden` [B, T], hidden tokens are coloured by their
    replacement (the mask, a random token, or the same token), and the original follows in parentheses.
    """
    from rich.text import Text

    tokens_BT = batch["tokens"][:ROWS]
    seen_BT = np.asarray(seen["tokens"])[:ROWS]
    hidden_BT = np.asarray(seen["hidden"])[:ROWS] if "hidden" in seen else np.zeros(tokens_BT.shape, bool)
    found = []
    for row, (was_T, is_T, hidden_T) in enumerate(zip(tokens_BT, seen_BT, hidden_BT, strict=True)):
        line = Text(f"{row}: ")
        filled = int(np.flatnonzero((was_T != was_T[-1]) | hidden_T).max(initial=-1)) + 1  # the rest repeats one token
        for position, (new, old) in enumerate(zip(is_T[:filled], was_T[:filled], strict=True)):
            if hidden_T[position]:
                kind = "masked" if new == vocabulary.special["mask"] else "random" if new != old else "kept"
                line.append(vocabulary.token(int(new)), COLOURS[kind])
                line.append(f"({vocabulary.token(int(old))}) ", "yellow")
            else:
                line.append(f"{vocabulary.token(int(new))} ", "dim" if batch["words"][row, position] < 0 else "")
        if filled < len(is_T):
            line.append(f"{vocabulary.token(int(is_T[-1]))} x {len(is_T) - filled}", "dim")
        found.append(line)
    if hidden_BT.any():
        legend = Text("hidden: ")
        for kind, colour in COLOURS.items():
            legend.append(f" {kind} ", colour)
        found.append(legend.append(" (original token)", "yellow"))
    return found
