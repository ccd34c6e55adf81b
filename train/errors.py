"""User errors, and suggestions for misspelled names."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that a user can cause: one line with what is wrong, where, and what to do. The command line prints it and exits
    with status 2."""


def nearest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Return `; did you mean X?` for the known name closest to `name`. If none is close, return `otherwise`, by default the list
    of known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are: {', '.join(known)}" if otherwise is None else otherwise
