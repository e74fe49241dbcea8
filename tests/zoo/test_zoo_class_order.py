"""Files of class names, as people have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modeldoctor.errors import DataError
from modeldoctor.zoo.class_order import read_class_order

CONTENTS: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "lines": (b"ant\nbee\r\n\ncat dog\n", ("ant", "bee", "cat dog")),
    "a byte order mark": ("\ufeffépinard\nbee\n".encode(), ("épinard", "bee")),
    "numbers": (b"0\n1\n10\n2\n", ("0", "1", "10", "2")),
    "one number": (b"7\n", ("7",)),
    "list": (b'["ant", "bee"]', ("ant", "bee")),
    "class_to_idx": (b'{"bee": 1, "ant": 0}', ("ant", "bee")),
    "class_to_idx of digits": (b'{"0": 0, "1": 1, "10": 2, "2": 3}', ("0", "1", "10", "2")),
    "idx_to_class": (b'{"1": "bee", "0": "ant"}', ("ant", "bee")),
    "idx_to_class of digits": (b'{"0": "0", "1": "1", "2": "10", "3": "2"}', ("0", "1", "10", "2")),
}


@pytest.mark.parametrize("case", CONTENTS)
def test_a_file_names_the_classes(tmp_path: Path, case: str) -> None:
    content, names = CONTENTS[case]
    (tmp_path / "classes").write_bytes(content)
    assert read_class_order(str(tmp_path / "classes")).names == names


@pytest.mark.parametrize("content", [{"ant": 1, "bee": 2}, {"ant": 0, "bee": 0}, [1, 1], {}, [["ant"]]])
def test_json_without_names_is_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"does not name the classes 0 \.\.\. N - 1"):
        read_class_order(str(tmp_path / "classes.json"))


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "empty"), (b"\xff\xfe\x00", "cannot be read"), (b"a\na\n", "twice")]
)
def test_what_is_no_list_of_names_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_class_order(str(tmp_path / "classes.txt"))


def test_names_beyond_the_length_of_a_file_s_name_are_no_path() -> None:
    names = tuple(f"class {number}" for number in range(1000))
    assert read_class_order(",".join(names)).names == names
