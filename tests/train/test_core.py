"""The core knows no task and no family: their words do not occur in its sources."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

TRAIN = Path(__file__).parents[2] / "train"
CORE = [TRAIN / f"{name}.py" for name in ("experiment", "step", "loop", "optim", "sharding", "parts", "cli")]
ROOMS = [path for room in ("runs", "cluster", "verbs") for path in sorted((TRAIN / room).glob("*.py"))]
WORDS = re.compile(
    r"(?<![a-z])(token(s|izer|izers)?|mask(s|ed)?|vocab(ulary|_size)?|segments?|labels?|images?|pixels?|cudnn|bert|classes|"
    r"next_sentence|attention|wordpiece)(?![a-z])",
    re.IGNORECASE,
)
# Rules of sharding name the logical axes of every model, in one table that a model can extend.
ALLOWED = {"sharding.py": {"vocab", "pixels"}}


def words_of(source: str) -> set[str]:
    return {match[1].lower() for match in WORDS.finditer(source)}


@pytest.mark.parametrize("path", CORE + ROOMS, ids=lambda path: str(path.relative_to(TRAIN)))
def test_no_word_of_a_task_or_family_occurs_in_the_core(path):
    assert words_of(path.read_text()) - ALLOWED.get(path.name, set()) == set()


def test_the_words_are_found():
    assert len(ROOMS) > 15
    assert words_of("used = dataset.codec.files.get(TOKENIZER_FILE)") == {"tokenizer"}
    assert words_of('getattr(experiment.model, "attention", None) == "cudnn"') == {"attention", "cudnn"}
    assert words_of("the unmasked immediate imagery is unlabelled") == set()
