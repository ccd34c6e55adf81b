"""The core is independent of tasks and model families: their words do not occur in its sources."""

import re
from pathlib import Path

import pytest

TRAIN = Path(__file__).parents[2] / "train"
FILES = [TRAIN / f"{name}.py" for name in ("experiment", "step", "loop", "optim", "sharding", "parts", "cli")]
FOLDER_FILES = [path for folder in ("runs", "cluster", "verbs") for path in sorted((TRAIN / folder).glob("*.py"))]
WORDS = re.compile(
    r"(?<![a-z])(token(s|izer|izers)?|mask(s|ed)?|vocab(ulary|_size)?|segments?|labels?|images?|pixels?|cudnn|bert|classes|"
    r"next_sentence|attention|wordpiece)(?![a-z])",
    re.IGNORECASE,
)
# The sharding rules name the logical axes of all models.
ALLOWED = {"sharding.py": {"vocab", "pixels"}}


def forbidden_words(source: str) -> set[str]:
    return {match[1].lower() for match in WORDS.finditer(source)}


@pytest.mark.parametrize("path", FILES + FOLDER_FILES, ids=lambda path: str(path.relative_to(TRAIN)))
def test_core_sources_have_no_forbidden_words(path):
    assert forbidden_words(path.read_text()) - ALLOWED.get(path.name, set()) == set()


def test_forbidden_words_are_found():
    assert len(FOLDER_FILES) > 15
    assert forbidden_words("used = dataset.codec.files.get(TOKENIZER_FILE)") == {"tokenizer"}
    assert forbidden_words('getattr(experiment.model, "attention", None) == "cudnn"') == {"attention", "cudnn"}
    assert forbidden_words("the unmasked immediate imagery is unlabelled") == set()
