"""Parse and check HTML."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br"}
LOADING = {"src", "href", "data", "action", "poster", "srcset"}


class Page(HTMLParser):
    """The tags and the texts of a page. Raises AssertionError if tags do not balance."""

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open}"
        self.open.pop()

    def handle_data(self, data):
        if data.strip() and not {"style", "script"} & set(self.open):
            self.texts.append((tuple(self.open), data.strip()))

    @property
    def text(self) -> str:
        return " ".join(text for _, text in self.texts)

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]

    def within(self, tag: str) -> list[str]:
        return [text for path, text in self.texts if tag in path]


def checked(html: str) -> Page:
    """Parse a page. Assert that it loads no resources, runs no scripts, and has unique ids."""
    page = Page(html)
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        for name in LOADING & set(attrs):
            assert attrs[name].startswith(("#", "data:image/png;base64,"))
    assert not re.search(r"url\((?!#)|@import", html)
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [attrs["href"] for _, attrs in page.tags if "href" in attrs] + re.findall(r"url\((#[^)]*)\)", html)
    assert {target[1:] for target in targets} <= set(ids)
    return page
