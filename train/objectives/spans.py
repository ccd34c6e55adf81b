"""Spans of tagged words, such as named entities, and their precision and recall."""

from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """The words from `start` up to, not including, `end`."""

    type: str
    start: int
    end: int


def spans(tags: Sequence[str]) -> list[Span]:
    """Return the spans of a sentence by the rules of conlleval (Tjong Kim Sang and Buchholz 2000) and seqeval.

    A tag is `O`, or a prefix (`B` begins a span, `I` continues it, `E` ends it, `S` or `U` is a whole span), `-` and a type. A
    tag `I` or `E` after another type, or after `O`, begins a span: IOB1, IOB2 and IOBES are all read. A tag without a known
    prefix is a type of its own, continued by the same tag.
    """
    found: list[Span] = []
    open_type, start, was_ended = None, 0, True
    for at, tag in enumerate([*tags, "O"]):
        prefix, dash, kind = tag.partition("-")
        if not (dash and prefix in "BIESUL" and len(prefix) == 1):
            prefix, kind = ("O", None) if tag == "O" else ("I", tag)
        begins = kind is not None and (was_ended or open_type != kind or prefix in "BSU")
        if open_type is not None and (kind is None or begins):
            found.append(Span(open_type, start, at))
            open_type = None
        if begins:
            open_type, start = kind, at
        was_ended = kind is None or prefix in "ESUL"
    return found


def span_scores(predicted: Sequence[Sequence[str]], correct: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return `span_precision`, `span_recall` and `span_f1` over all sentences. A span is right if its type and words are."""
    found = {(i, span) for i, tags in enumerate(predicted) for span in spans(tags)}
    wanted = {(i, span) for i, tags in enumerate(correct) for span in spans(tags)}
    hits = len(found & wanted)
    precision, recall = hits / max(len(found), 1), hits / max(len(wanted), 1)
    f1 = 2 * hits / max(len(found) + len(wanted), 1)
    return {"span_precision": precision, "span_recall": recall, "span_f1": f1}
