"""A corpus that needs no download: the documentation inside the installed Python sources.

The standard library and the project's dependencies are parsed, not imported. Their docstrings, and other long strings at module
level (NumPy's `add_newdoc`, the language reference in `pydoc_data`, TFDS's descriptions), are stripped of code, tables and
markup, then split into unique passages of 20 to 120 words. One module is one document.
"""

import ast
import hashlib
import importlib.util
import inspect
import json
import random
import re
import sys
import sysconfig
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.cache import cached, read_json
from data.errors import DataError
from data.sources import Row, Rows, choose

STDLIB = "python"
LIBRARIES = tuple("flax grain jax matplotlib numpy optax orbax pydantic rich scipy sklearn tensorflow_datasets tyro".split())
TOPICS = ("flax", "jax", "matplotlib", "numpy", "orbax", STDLIB, "scipy", "sklearn")

MIN_WORDS, MAX_WORDS = 20, 120  # per passage
MIN_CHARACTERS = 80  # per string; 20 words are longer
HELD_OUT_ONE_IN = 8  # modules
VALIDATION_ROWS, TEST_ROWS = 60, 120  # maximum per class

# Directories without documentation of the library itself.
_SKIPPED = frozenset(
    (
        "test tests testing internal_test_util conftest encodings __pycache__ site-packages dist-packages idlelib lib2to3 "
        "turtledemo _vendor vendor third_party extern externals _array_api_compat array_api_compat array_api_extra"
    ).split()
)


@dataclass(frozen=True)
class Passage:
    """A few sentences of documentation, from the module `document` of `library`."""

    text: str
    library: str
    document: str

    @property
    def held_out(self) -> bool:
        """Whether the module is held out. A hash of its name decides, so all tasks hold out the same modules."""
        return zlib.crc32(self.document.encode()) % HELD_OUT_ONE_IN == 0


@dataclass(frozen=True)
class PyDocs:
    """Rows of `text` and `document` (the module's dotted name), sorted by library, module and position.

    The passages of a document are adjacent. The split `validation` holds one module in eight.
    """

    def stamp(self) -> Mapping[str, str]:
        return _stamp()

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]:
        """Raises DataError if a library is not installed."""
        splits: dict[str, list[Row]] = {"train": [], "validation": []}
        for passage in collect():
            split = "validation" if passage.held_out else "train"
            splits[split].append({"text": passage.text, "document": passage.document})
        return choose(splits, wanted, "pydocs")


@dataclass(frozen=True)
class PyDocsTopics:
    """Classification of passages by library (eight classes). Rows of `text`, with library names masked, and `label`.

    `test` comes from the modules that `PyDocs` also holds out. `train` and `validation` have different passages of the others.
    """

    def stamp(self) -> Mapping[str, str]:
        return _stamp()

    def splits(self, wanted: Mapping[str, str], names: Mapping[str, str]) -> Mapping[str, Rows]:
        """Raises DataError if a library is not installed."""
        splits: dict[str, list[Row]] = {"train": [], "validation": [], "test": []}
        passages = [p for p in collect() if p.library in TOPICS]
        masked = {p.text: self.prepared(p.text) for p in passages}
        seen = {masked[p.text] for p in passages if not p.held_out}  # excluded from test, even if only the names differ
        for library in TOPICS:
            in_library = [p for p in passages if p.library == library]
            random.Random(library).shuffle(in_library)
            shown = [p for p in in_library if not p.held_out]
            held_out = [p for p in in_library if p.held_out and masked[p.text] not in seen]
            for split, chosen in (
                ("train", shown[VALIDATION_ROWS:]),
                ("validation", shown[:VALIDATION_ROWS]),
                ("test", held_out[:TEST_ROWS]),
            ):
                splits[split] += [{"text": masked[p.text], "label": library} for p in chosen]
        return choose(splits, wanted, "pydocs:topics")

    def prepared(self, text: str) -> str:
        """Return the text with library names masked."""
        return mask_names(text)


def source(argument: str) -> PyDocs | PyDocsTopics:
    """Return the source `pydocs` or `pydocs:topics`."""
    if argument not in ("", "topics"):
        raise DataError(f"data.source pydocs:{argument}: must be pydocs or pydocs:topics")
    return PyDocsTopics() if argument else PyDocs()


def _stamp() -> dict[str, str]:
    """Return the state of each library, and of this file, because it determines the rows."""
    roots = {library: _roots(library) for library in sorted((*LIBRARIES, STDLIB))}
    states = {library: " ".join(f"{root} {root.stat().st_mtime_ns}" for root in found) for library, found in roots.items()}
    return {
        **states,
        "python": f"{states[STDLIB]} {sys.version}",
        "pydocs": hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16],
    }


def collect() -> list[Passage]:
    """Return all passages, sorted by library, module and position. Paragraphs that differ only in digits, case or punctuation are
    duplicates.

    Parsing takes half a minute; the result is cached until a library changes. Raises DataError if a library is not installed.
    """
    places = [str(root) for library in sorted((*LIBRARIES, STDLIB)) for root in _roots(library)]
    key = hashlib.sha256(json.dumps([places, _stamp()]).encode()).hexdigest()[:16]

    def write(folder: Path) -> None:
        (folder / "passages.json").write_text(json.dumps(list(_collected(sorted((*LIBRARIES, STDLIB))))), "utf-8")

    return [Passage(*fields) for fields in read_json(cached(f"pydocs/{key}", write) / "passages.json")]


def _collected(libraries: list[str]) -> Iterator[tuple[str, str, str]]:
    """Yield (text, library, document) for each passage."""
    seen = set[str]()
    for library in libraries:
        for document, path in _modules(library):
            for text in _strings(path):
                new = []
                for paragraph in _paragraphs(text):
                    letters = _letters(paragraph)
                    if letters not in seen and _is_english(paragraph):
                        seen.add(letters)
                        new.append(paragraph)
                for passage in _passages(new):
                    if passage in new or _letters(passage) not in seen:  # a passage of one paragraph was added to `seen` above
                        seen.add(_letters(passage))
                        yield passage, library, document


def _letters(text: str) -> str:
    """Return the words in lower case, to compare texts for duplicates."""
    return " ".join(re.findall("[a-z]+", text.lower()))


def _roots(library: str) -> list[Path]:
    """Return the folders of a library, without importing it."""
    if library == STDLIB:
        return [Path(sysconfig.get_path("stdlib"))]
    spec = importlib.util.find_spec(library)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"data.source pydocs: the library {library} is not installed; pip install -e .")
    return sorted(map(Path, spec.submodule_search_locations))


def _modules(library: str) -> list[tuple[str, Path]]:
    """Return the dotted name and file of each module of a library, sorted."""
    prefix = () if library == STDLIB else (library,)
    found = {}
    for root in _roots(library):
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            if _SKIPPED.isdisjoint(parts) and not re.search(r"(^|_)tests?(_|$)", parts[-1]):
                found[".".join((*prefix, *parts)).removesuffix(".__init__")] = path
    return sorted(found.items())


def _strings(path: Path) -> Iterator[str]:
    """Yield the docstrings of a file, then its other long strings at module level."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ignore syntax warnings about library code
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a template or a sample of invalid code
            return
    yield from _docstrings(tree)
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr) and statement is not tree.body[0]:
            for node in ast.walk(statement):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > MIN_CHARACTERS:
                    yield inspect.cleandoc(node.value)


def _docstrings(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    docstring = ast.get_docstring(node, clean=False)
    if docstring and len(docstring) > MIN_CHARACTERS:
        yield inspect.cleandoc(docstring)
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child)


# Substitutions that turn a docstring into plain text, in order. A block's body is the more deeply indented lines below it.
_BODY = r"(?:\n(?:\1 +\S.*| *(?=\n|\Z)))*"
_CLEANING = [
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"^( *)(?:```|~~~).*\n(?:.*\n)*?\1(?:```|~~~) *$", ""),  # fenced code
        (r"^ *>>>.*(?:\n.*\S.*)*", ""),  # a doctest and its output
        (r"^( *)\.\. (?:note|warning|tip|hint|important|caution|attention|deprecated|version\w+)::(?: [\d.]+$)?", r"\1"),
        (r"^( *)\.\.(?= |$).*" + _BODY, ""),  # any other directive, comment or link target
        (r"^( *)(\S.*)?::$" + _BODY, r"\1\2:"),  # a literal block
        (r"^( *)(?:References?|See Also|Notation)\n\1([-=~])\2+\n(?:.*\n?)*?(?=\1\S.*\n\1\2{3}|\Z)", ""),
        (r"^.*\n *([-=~^*#+\"])\1{2,} *$", ""),  # an underlined title
        (r"^ *(?:#+ .*|[A-Z][\w ]{1,30}:) *$", ""),  # `## Title`, `Args:`
        (r"^( *\*{0,2}\w[\w.*, ]*) : .*$", r"\1:"),  # `name : type` of a parameter
        (r"^( *):\w+ (?:[^:\n]* )?(\w+): ", r"\1\2: "),  # `:param type name: text`
        (r"\(?https?://[^\s)>]+\)?|<(?:doi|https?):[^>]*>", ""),
        (r"!?\[([^\]\n]+)\]\([^)\n]*\)", r"\1"),  # `[text](address)`
        (r"\s?\[[\w*#.-]+\]_(?!\w)", ""),  # a citation
        (r":[\w:+-]+:(?=`)", ""),  # the role of `:role:`text``
        (r"`~?([^`<]+?)\s*<[^>`]*>`_{0,2}", r"\1"),  # `text <target>`_
        (r"(`{1,2})[~!]?([^`]*)\1_{0,2}", r"\2"),
        (r"(?<![\w*])(\*{1,2})(?=[^\s*])([^*\n]*[^\s*])\1(?![\w*])", r"\2"),  # emphasis
        (r"\|(\w+)\|(?!\w)", r"\1"),
        (r"</?[A-Za-z][^>\n]*>", ""),
    )
]
# First line of a list item or of a parameter description.
_ITEM = re.compile(r" *(?:[-*+•] |\(?\d+[.)] |\*{0,2}[\w.]+(?: \([^)]*\))?:(?: |$))")
_BULLET = re.compile(r" *(?:[-*+•]|\(?\d+[.)]) ")
_DANGLING_COLON = re.compile(r"(?:(?<=[.;!?] )|^)[^.;!?]*:$")  # a sentence that introduces a removed block
_NOISE = re.compile(r"\\|[{}$@|=]{2}|%\(|\${|[-=_]{4}|\bCopyright\b|[Ll]icensed? ")
_FUNCTION_WORDS = frozenset(
    (
        "a an the of to in on at by for from with as is are was be been can will may must should if or and not no that this "
        "these those it its which when where than then only has have does do any all each into"
    ).split()
)


def _passages(paragraphs: list[str]) -> list[str]:
    """Return passages of MIN_WORDS to MAX_WORDS words: join short paragraphs, and split long ones between sentences."""
    passages = [""]
    for piece in (piece for paragraph in paragraphs for piece in _split(paragraph)):
        words, more = len(passages[-1].split()), len(piece.split())
        if words < MIN_WORDS and words + more <= MAX_WORDS:
            passages[-1] = f"{passages[-1]} {piece}".lstrip()
        else:
            passages.append(piece)
    return [passage for passage in passages if MIN_WORDS <= len(passage.split()) <= MAX_WORDS]


def _split(paragraph: str) -> Iterator[str]:
    """Yield the paragraph, or groups of its sentences if it is too long."""
    run = ""
    for sentence in re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph):
        if run and len(run.split()) + len(sentence.split()) > MAX_WORDS:
            yield run
            run = sentence
        else:
            run = f"{run} {sentence}".lstrip()
    yield run


def _paragraphs(docstring: str) -> Iterator[str]:
    """Yield unwrapped paragraphs, list items and parameter descriptions."""
    for pattern, replacement in _CLEANING:
        docstring = pattern.sub(replacement, docstring)
    for block in re.split(r"\n\s*\n", docstring):
        lines, indents = [], []
        for line in block.splitlines():
            indent = len(line) - len(line.lstrip())
            if not lines or indent < indents[-1] or _ITEM.match(line):
                lines.append(" ".join(_BULLET.sub("", line).split()))
            else:
                lines[-1] += " " + " ".join(line.split())
            indents.append(indent)
        for line in lines:
            yield _DANGLING_COLON.sub("", line).rstrip() if line.endswith(":") else line


def _is_english(text: str) -> bool:
    """Return whether a paragraph is mostly words, with enough function words for English sentences."""
    words = [word.strip("()[]\"'.,;:!?").lower() for word in text.split()]
    plain = sum(word.isalpha() or word.replace("-", "").isalpha() for word in words)
    function = sum(word in _FUNCTION_WORDS for word in words)
    return len(words) >= 4 and plain >= 0.75 * len(words) and function >= 0.15 * len(words) and not _NOISE.search(text)


# Words that reveal the topic: any word that contains a library's name (`jax2tf`), common aliases, and their attributes
# (`np.linalg.norm`).
_NAMES = re.compile(
    r"\b(?:\w*(?:python|stdlib|flax|linen|jax|jnp|pallas|matplotlib|pyplot|pylab|numpy|f2py|ndarray|orbax|tensorstore|scipy|sklearn|scikit|"
    r"tensorflow|tfds|optax)\w*|nnx|nn|lax|xla|mpl|plt|np|ocp|sp|tf)\b(?:[-.]\w+)*",
    re.IGNORECASE,
)


def mask_names(text: str) -> str:
    """Replace library names and their attributes by `library`."""
    return _NAMES.sub("library", text)
