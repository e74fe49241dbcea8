"""Image lists in CSV files."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath
from unicodedata import normalize

from modeldoctor.data.content import Content, Listing, file_contents, sorted_classes
from modeldoctor.data.listed import ListedFiles
from modeldoctor.data.splits import SPLIT_ORDER, WHOLE, split_named
from modeldoctor.errors import DataError, ModelDoctorWarning, counted, shortened
from modeldoctor.runtime.reading import MISSING, Rows, csv_rows, is_there, next_step, table_text

_PROBED = 100
_NUMBER = re.compile(r"[0-9]+([.,]0+)?")


def open_table(file: Path, root: Path | None = None) -> dict[str, Content]:
    """Read a CSV file with the columns `path`, `class` or `label`, and optionally `split`; rows keep their order.

    Args:
        file: the CSV file, UTF-8, with a header.
        root: the folder that relative paths start from; the file's own by default.

    Raises:
        DataError: no such file, a column or a value is missing, or none of the images is there.
    """
    listings: dict[str, Listing] = {}
    for line, row in _rows(file, ("path",)):
        split = row.get("split", WHOLE)
        if not split:
            raise _empty(file, line, "split")
        listing = listings.setdefault(split_named(split) or split, Listing([], []))
        listing.paths.append(row["path"])
        listing.classes.append(row["class"])
    order = sorted(listings, key=lambda split: (SPLIT_ORDER.index(split) if split in SPLIT_ORDER else 9, split))
    return _contents(root or file.parent, {split: listings[split] for split in order}, file)


def open_mini_imagenet(root: Path) -> dict[str, Content] | None:
    """Read mini-ImageNet's `train.csv`, `val.csv` and `test.csv` over `images/`; None where there are no such files."""
    listings: dict[str, Listing] = {}
    for split in SPLIT_ORDER:
        file = root / f"{split}.csv"
        if file.is_file():
            rows = [row for _, row in _rows(file, ("filename",))]
            listings[split] = Listing([f"images/{row['path']}" for row in rows], [row["class"] for row in rows])
    return _contents(root, listings, root / "images") if listings else None


def _rows(file: Path, path_columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, row), with the keys `path`, `class` and, where the file has it, `split`."""
    try:
        with table_text(file) as stream:
            reader = csv_rows(stream)
            columns = _columns(file, reader, path_columns)
            for raw in reader:
                row = {key: (raw[column] or "").strip() for key, column in columns.items()}
                for key in ("path", "class"):
                    if not row[key] or row[key] in MISSING:
                        raise _empty(file, reader.line_num, columns[key])
                row["path"] = PurePath(row["path"]).as_posix()
                yield reader.line_num, row
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"the list of images cannot be read: {error}",
            where=str(file),
            expected="a CSV file in UTF-8",
            hint=next_step(error, "correct the path, or save the table again as CSV (UTF-8)"),
        ) from error


def _columns(file: Path, reader: Rows, path_columns: tuple[str, ...]) -> dict[str, str]:
    wanted = {"path": path_columns, "class": ("class", "label"), "split": ("split",)}
    spelled = reader.spelled(name for names in wanted.values() for name in names)
    columns = {key: spelled[name] for key, names in wanted.items() for name in reversed(names) if name in spelled}
    if {"path", "class"} <= set(columns):
        return columns
    raise DataError(
        f"the columns are {', '.join(reader.fieldnames or ()) or 'missing'}",
        where=f"{file}, line 1",
        expected=f"a header with the columns {' or '.join(path_columns)} and class or label (split is optional)",
        hint="add a header line, with commas, semicolons or tabs between the columns",
    )


def _empty(file: Path, line: int, column: str) -> DataError:
    return DataError(
        f"an empty {column}",
        where=f"{file}, line {line}",
        expected="a value in every row",
        hint="fill it in, or delete the row",
    )


def _whole_numbers(listings: dict[str, Listing]) -> dict[str, Listing]:
    """Write labels 0.0, 1.0, ... as 0, 1, ...: so does pandas where a value was missing."""
    names = {name for listing in listings.values() for name in listing.classes}
    if not all(_NUMBER.fullmatch(name) for name in names) or all(name.isdigit() for name in names):
        return listings
    plain = {name: re.split("[.,]", name)[0] for name in names}
    return {
        split: Listing(listing.paths, [plain[name] for name in listing.classes]) for split, listing in listings.items()
    }


def _contents(root: Path, listings: dict[str, Listing], where: Path) -> dict[str, Content]:
    files = ListedFiles(root)
    listings = {
        split: Listing(list(map(files.find, listing.paths)), listing.classes) for split, listing in listings.items()
    }
    listings = _whole_numbers(listings)
    paths = [path for listing in listings.values() for path in listing.paths]
    probed = paths[:: max(1, len(paths) // _PROBED)]
    if not paths:
        raise DataError("no rows", where=str(where), expected="a row for each image", hint="add them to the table")
    if not any(is_there(root / path) for path in probed):
        raise DataError(
            f"none of {len(probed)} listed images is there, for example {root / probed[0]}",
            where=str(where),
            expected=f"paths that are absolute or start from {root}, with / or \\ between folders",
            hint="give the folder that the paths start from as the data's root (--root)",
        )
    class_names = sorted_classes({name for listing in listings.values() for name in listing.classes})
    listings = {
        split: Listing(listing.paths, [normalize("NFC", name) for name in listing.classes])
        for split, listing in listings.items()
    }
    listings = _each_once(listings, where)
    # Sorted as written, as a training did; a name in both of Unicode's forms is one class.
    return file_contents(root, listings, tuple(dict.fromkeys(normalize("NFC", name) for name in class_names)))


def _each_once(listings: dict[str, Listing], where: Path) -> dict[str, Listing]:
    """Leave out rows that name an image of the same split again, and say how many.

    Raises:
        DataError: an image has two labels.
    """
    labels: dict[str, str] = {}
    once: dict[str, Listing] = {}
    again: list[str] = []
    for split, listing in listings.items():
        kept = once.setdefault(split, Listing([], []))
        seen: set[str] = set()
        for path, name in zip(listing.paths, listing.classes, strict=True):
            if labels.setdefault(path, name) != name:
                raise DataError(
                    f"the image {path} has two labels, {labels[path]} and {name}",
                    where=str(where),
                    expected="one class for each image",
                    hint="delete the wrong row; a classifier of images with several labels each cannot be diagnosed",
                )
            if path in seen:
                again.append(path)
                continue
            seen.add(path)
            kept.paths.append(path)
            kept.classes.append(name)
    if again:
        warnings.warn(
            f"{where}: {counted(len(again), 'row names', 'rows name')} an image that its split has already: "
            f"{shortened(again)}; each is counted once",
            ModelDoctorWarning,
            stacklevel=4,
        )
    return once
