"""Groups of images, such as their backgrounds: a table names each image's."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modeldoctor.config.treat import DataConfig
from modeldoctor.data.content import warn_of_alike
from modeldoctor.data.foreign_paths import ByPath
from modeldoctor.errors import DataError, counted
from modeldoctor.runtime.reading import MISSING, csv_rows, next_step, table_text
from modeldoctor.treatment.subsets import Splits, Subset


def with_groups(splits: Splits, data: DataConfig) -> Splits:
    """The same splits with the group of each image, from a CSV with the columns `path` and `data.group_column`.

    Raises:
        DataError: the table cannot be read, or a column or an image is missing.
    """
    if data.groups is None:
        return splits
    of_path = read_groups(data.groups, data.group_column)

    def groups(part: Subset) -> NDArray[np.str_]:
        paths = [part.images.paths[index] for index in part.indices.tolist()]
        named = [of_path.find(path) for path in paths]
        missing = [path for path, group in zip(paths, named, strict=True) if group is None]
        if missing:
            raise DataError(
                f"without a group: {counted(len(missing), 'image')} of {part.images.split}, first {missing[0]}",
                where=str(data.groups),
                expected=f"a row for every image, with its path relative to the data, such as {missing[0]}",
                hint="complete the table, or correct its paths",
            )
        return np.array(named, dtype=np.str_)

    parts = {name: getattr(splits, name) for name in ("train", "val", "test")}
    found = {name: groups(part) for name, part in parts.items()}
    warn_of_alike(sorted({group for each in found.values() for group in each.tolist()}), "groups")
    names, counts = np.unique(found["train"], return_counts=True)
    shares = dict(zip(names.tolist(), (counts / counts.sum()).tolist(), strict=True))
    return Splits(**{name: replace(part, groups=found[name], group_shares=shares) for name, part in parts.items()})


def read_groups(table: Path, column: str) -> ByPath[str]:
    """The group of each image by its path, in whatever way either is written.

    Args:
        table: a CSV with a header.
        column: the name of the groups' column, in any case.

    Raises:
        DataError: it cannot be read, a column or a value is missing, or an image has two groups.
    """
    groups: ByPath[str] = ByPath()
    try:
        with table_text(table) as file:
            reader = csv_rows(file)
            spelled = reader.spelled(("path", column.lower()))
            if not {"path", column.lower()} <= spelled.keys():
                raise DataError(
                    f"columns {', '.join(reader.fieldnames or ('none',))}",
                    where=str(table),
                    expected=f"path and {column}",
                    hint="name the column of the groups",
                )
            for row in reader:
                path, group = (row[spelled[name]].strip() for name in ("path", column.lower()))
                group = "" if group in MISSING else group
                if not path or not group or not groups.add(path, group):
                    raise _unusable(f"{table}, line {reader.line_num}", column, path, group)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"no readable table: {error}",
            where=str(table),
            expected="a CSV of path and group",
            hint=next_step(error, "check data.groups"),
        ) from error
    return groups


def _unusable(where: str, column: str, path: str, group: str) -> DataError:
    found = f"{path} has two groups, the second of them {group}" if path and group else "an empty path or group"
    return DataError(
        found, where=where, expected=f"one row of path and {column} for each image", hint="correct the row"
    )
