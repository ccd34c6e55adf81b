"""Errors that a user can cause, and the nearest right name."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """One line: what was wrong, where, and what would be right. The front door prints it and exits with status 2."""


def nearest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """`; did you mean X?` for the known name closest to `name`; where none is close `otherwise`, by default the whole list."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are: {', '.join(known)}" if otherwise is None else otherwise
