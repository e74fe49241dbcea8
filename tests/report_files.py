"""What a report consists of, read as its readers would."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema

import modeldoctor.report
from modeldoctor.report import make_report

SCHEMA = Path(modeldoctor.report.__file__).with_name("report.schema.json")


def made(path: Path, later: Path | None = None, **options: Any) -> tuple[str, dict[str, Any], str]:
    """The page, the JSON (valid by the shipped schema), and the Markdown."""
    files = {file.suffix: file.read_text(encoding="utf-8") for file in make_report(path, later, **options).files}
    content = json.loads(files[".json"])
    jsonschema.validate(content, json.loads(SCHEMA.read_text()), cls=jsonschema.Draft202012Validator)
    return files[".html"], content, files[".md"]


class Page(HTMLParser):
    """Text outside styles and scripts, tags, and every address."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] not in (["style"], ["script"]):
            self.text.append(data)
