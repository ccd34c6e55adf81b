"""Texts of held-out splits that are nearly in train, for `data inspect`."""

from collections.abc import Iterable, Mapping, Sequence

from data.text.minhash import WORD, Signatures

CONTAINED = 0.8  # share of the shingles of a text that are in the other
# Limits of memory and time. Of more texts, evenly spaced ones are compared.
CHARACTERS, HELD_OUT, TRAIN, CHUNK = 1_000, 2_000, 100_000, 1_000


def lines(texts: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a line for each held-out split: how many of its texts overlap with train, an example, and what was compared."""
    found, train = [], sample(texts["train"], TRAIN)
    for split in (split for split in texts if split != "train"):
        held_out = sample(texts[split], HELD_OUT)
        pairs = overlaps(train, held_out)
        line = (
            f"{len(pairs):,} of {len(held_out):,} texts of {split} overlap with train: {CONTAINED:.0%} of the "
            f"{Signatures.SHINGLE}-word sequences of one text are in the other (compared with {len(train):,} of "
            f"{len(texts['train']):,} texts of train, up to {CHARACTERS:,} characters of each)"
        )
        if pairs:
            (one, other), *_ = pairs.items()
            line = f"warning: {line}; for example {held_out[one][:100]!r} and, in train, {train[other][:100]!r}"
        found.append(line)
    return found


def sample(texts: Sequence[str], limit: int) -> list[str]:
    """Return the beginnings of at most `limit` evenly spaced texts."""
    step = max(-(-len(texts) // limit), 1)
    return [text[:CHARACTERS] for at in range(0, len(texts), CHUNK * step) for text in texts[at : at + CHUNK * step : step]]


def overlaps(train: Sequence[str], held_out: Sequence[str]) -> dict[int, int]:
    """Return {index in `held_out`: index in `train`} for the held-out texts that nearly contain, or are nearly contained in, a
    training text: at least CONTAINED of the shingles of one are in the other (containment; Broder 1997).
    """
    import numpy as np
    from scipy.sparse import csr_array

    columns = {shingle: i for i, shingle in enumerate(sorted({s for text in held_out for s in shingles(text)}))}

    def counted(texts: Iterable[str]) -> tuple[csr_array, np.ndarray]:
        """Return which shingles of `columns` each text has, [texts, shingles], and the number of all its shingles, [texts]."""
        sets = [shingles(text) for text in texts]
        known = [[columns[shingle] for shingle in own if shingle in columns] for own in sets]
        ends = np.cumsum([0, *map(len, known)])
        indices = np.array([column for own in known for column in own], np.int32)
        matrix = csr_array((np.ones(ends[-1], np.int32), indices, ends), (len(sets), len(columns)))
        return matrix, np.array([len(own) for own in sets])

    found, (held_out_matrix, held_out_sizes) = dict[int, int](), counted(held_out)
    for at in range(0, len(train), CHUNK):
        matrix, sizes = counted(train[at : at + CHUNK])
        common = (matrix @ held_out_matrix.T).tocoo()
        row, column = common.coords
        close = common.data >= CONTAINED * np.minimum(sizes[row], held_out_sizes[column])
        for one, other in zip(column[close].tolist(), (at + row[close]).tolist(), strict=True):
            found.setdefault(one, other)
    return found


def shingles(text: str) -> set[str]:
    """Return the sequences of 5 consecutive words, ignoring case and punctuation; the whole text if it is shorter."""
    words = WORD.findall(text.lower()) or [text]
    size = Signatures.SHINGLE
    return {" ".join(words[i : i + size]) for i in range(max(len(words) - size + 1, 1))}
