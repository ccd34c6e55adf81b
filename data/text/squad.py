"""Questions about texts, answered by a part of the text (SQuAD; Rajpurkar et al. 2016, 2018).

Shapes: B batch, T length.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.dataset import Spec, fingerprint
from data.text.pairs import assemble
from data.text.records import Clean, FromRecords, Record, chunks
from data.text.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class SquadText(FromRecords):
    """Batches of [CLS] question [SEP] window [SEP]: `tokens`, `words`, `segments` and `mask` [B, T].

    A window is a part of the context; a long context has several, each with its row. `start` and `end` [B] are the positions of
    the first and the last token of the answer, and 0, that of [CLS], if the window does not contain it. `begins` and `ends`
    [B, T] are the offsets of each token in the context, in characters (-1: not a token of the context).

    Texts are not changed, since answers have offsets. Cleaning leaves out duplicates only.
    """

    READS = ("question", "context", "answers", "answer", "start", "id")
    NEEDS = ("context",)

    length: int = 384
    stride: int = 128
    "tokens from the begin of a window to that of the next"
    question_length: int = 64
    "maximum number of tokens of a question"

    def __post_init__(self):
        super().__post_init__()
        if self.question_length < 1:
            raise ValueError(f"question_length must be at least 1, not {self.question_length}")
        room = self.length - 3 - self.question_length
        if not 1 <= self.stride <= room:
            raise ValueError(
                f"stride must be in [1, {room}], the tokens of a window beside a question of question_length, not {self.stride}"
            )

    def spec(self) -> dict[str, Spec]:
        return self.arrays(["tokens", "words", "segments", "begins", "ends"], ["mask"], ["start", "end"])

    def accepted(self, row: Mapping[str, Any], clean: Clean) -> Record | str:
        """Accept `answers`, a list of {"text", "answer_start"} or a dict of two lists, or one `answer` and its `start`.

        No answers mean that the context does not answer the question. A row to predict has neither field.
        """
        for name in ("question", "context"):
            if not isinstance(row.get(name), str):
                return f"it has no {name}" if row.get(name) is None else f"its {name} is not a string"
            if not row[name].strip():
                return f"its {name} is empty"
        answers = _answers(row)
        if isinstance(answers, str):
            return answers
        for answer in answers or ():
            at, text = answer["start"], answer["text"]
            if at < 0 or row["context"][at : at + len(text)] != text:
                return f"its answer {text!r} is not at character {at} of its context"
        name = str(row.get("id") or fingerprint(row["question"], row["context"]))
        return {"id": name, "question": row["question"], "context": row["context"], "answers": answers}

    def texts_of(self, record: Record) -> list[str]:
        return [record["question"], record["context"]]

    def reference(self, record: Record) -> Record:
        return record

    def shown(self, record: Record) -> str:
        return record["question"]

    def row_fields(self) -> tuple[Any, ...]:
        return (*super().row_fields(), self.stride, self.question_length)

    def rows(
        self, numbered: Iterable[tuple[int, Record]], vocabulary: Tokenizer, counts: Counter[str], packed: bool
    ) -> Iterator[dict[str, Any]]:
        for chunk in chunks(numbered):
            questions = vocabulary.encode([record["question"] for _, record in chunk])
            contexts = vocabulary.encode_with_offsets([record["context"] for _, record in chunk])
            for (number, record), (ids, words), context in zip(chunk, questions, contexts, strict=True):
                counts["questions are truncated"] += len(ids) > self.question_length
                question = (ids[: self.question_length], words[: self.question_length])
                windows = list(self.windows(question, context, record, vocabulary))
                counts["answers are in no window"] += bool(record["answers"]) and not any(row["end"] for row in windows)
                yield from ({**row, "record": number} for row in windows)

    def windows(
        self, question: tuple[np.ndarray, np.ndarray], context: tuple[np.ndarray, ...], record: Record, vocabulary: Tokenizer
    ) -> Iterator[dict[str, Any]]:
        """Yield the arrays of each window of a context, which has (ids, words, begins, ends)."""
        ids, words, begins, ends = context
        first = len(question[0]) + 2  # the position of the first token of a window
        room = self.length - first - 1
        for at in range(0, max(len(ids) - room, 0) + self.stride, self.stride):
            part = slice(at, at + room)
            row = assemble([question, (ids[part], words[part])], self.length, vocabulary)
            offsets = {"begins": begins[part], "ends": ends[part]}
            for name, values in offsets.items():
                row[name] = np.full(self.length, -1, np.int32)
                row[name][first : first + len(values)] = values
            start = end = 0
            if record["answers"]:
                answer = record["answers"][0]
                low, high = answer["start"], answer["start"] + len(answer["text"])
                inside = np.flatnonzero((offsets["ends"] > low) & (offsets["begins"] < high))
                if len(inside) and offsets["begins"][inside[0]] <= low and offsets["ends"][inside[-1]] >= high:
                    start, end = first + inside[0], first + inside[-1]
            yield {**row, "start": np.int32(start), "end": np.int32(end)}


def _answers(row: Mapping[str, Any]) -> list[dict[str, Any]] | str | None:
    """Return the answers of a row as [{"text", "start"}, …], None if it has no such field, or what is wrong with them."""
    found = row.get("answers")
    if found is None and row.get("answer") is not None:
        found = [{"text": row["answer"], "start": row.get("start")}]
    if found is None:
        return None
    if isinstance(found, Mapping):  # lists of texts and of starts, as in Hugging Face data sets
        texts, starts = (found.get(name) for name in ("text", "answer_start"))
        if not isinstance(texts, list | tuple) or not isinstance(starts, list | tuple) or len(texts) != len(starts):
            return "its answers are not a list of text and answer_start"
        found = [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(found, list | tuple) or not all(isinstance(answer, Mapping) for answer in found):
        return "its answers are not a list of text and answer_start"
    answers = []
    for answer in found:
        text, start = answer.get("text"), answer.get("answer_start", answer.get("start"))
        if not isinstance(text, str) or not text.strip():
            return f"its answer {text!r} is not a text"
        if not isinstance(start, int | np.integer) or isinstance(start, bool):
            return f"its answer {text!r} has no answer_start, a number of characters"
        answers.append({"text": text, "start": int(start)})
    return answers
