"""Texts of annotation tools: Unicode with or without a mark, GB2312 and what extends it, Windows' own."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_DECLARED = re.compile(rb"""\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")
_CHINESE = ("gb2312", "gbk", "gb_2312-80", "x-gbk", "cp936", "euc-cn", "euccn")
_WIDE = ("utf-16", "utf16", "utf-32", "utf32", "ucs", "iso-10646")
_LAST = "latin-1"


def decoded(content: bytes, guess: str = "utf-8") -> str:
    """The text of some bytes: by their mark, by what an XML says of itself, else the first encoding that reads them.

    The last one reads anything: shapes are numbers, which all of these write alike.

    Args:
        content: of a file.
        guess: what is tried first.
    """
    for encoding in _encodings(content, guess):
        try:
            return content.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    return content.decode(_LAST)


def _encodings(content: bytes, guess: str) -> Iterator[str]:
    yield from (encoding for mark, encoding in _MARKS.items() if content.startswith(mark))
    if declared := _DECLARED.match(content):
        name = declared[1].decode("ascii", "replace").lower()
        if not name.startswith(_WIDE):  # it could not have been read in single bytes
            yield "gb18030" if name in _CHINESE else name
    yield from (guess, "gb18030")
