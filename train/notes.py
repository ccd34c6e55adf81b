"""Notes for the user, each printed once per command: a command may start several runs."""

from collections.abc import Iterable

_printed: set[str] = set()


def begin() -> None:
    """Start a command."""
    _printed.clear()


def unprinted(notes: Iterable[str]) -> list[str]:
    """Return the notes that were not printed yet by this command, and count them as printed."""
    found = [note for note in dict.fromkeys(notes) if note not in _printed]
    _printed.update(found)
    return found
