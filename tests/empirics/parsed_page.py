"""A page as a test reads it."""

from __future__ import annotations

from html.parser import HTMLParser


class Parsed(HTMLParser):
    """Marked values, the text outside them, and what a browser might act on."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.marked: list[tuple[str, str, str]] = []
        self.loose: list[str] = []
        self.struck: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[tuple[str, dict[str, str | None]]] = []
        self._text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.append((tag, found))
        if tag not in ("meta", "link", "img", "br"):
            self._open.append((tag, found))
        if "data-field" in found:
            self._text = ""

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        name, found = self._open.pop()
        assert name == tag
        if "data-field" in found:
            self.marked.append((found["data-field"], found["data-format"], self._text))

    def handle_data(self, data):
        names = [tag for tag, _ in self._open]
        self._text += data
        if "s" in names:
            self.struck.append(data)
        if not {"svg", "script", "style", "title"} & set(names) and not any("data-field" in found for _, found in self._open):
            self.loose.append(data)
