"""Before any work: would an output replace an input, or a file that somebody else made?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from modeldoctor.errors import StoreError, UsageError
from modeldoctor.results.hdf5_file import open_hdf5
from modeldoctor.runtime.files import check_name, check_writable, regular
from modeldoctor.runtime.reading import exists

_ELSEWHERE = "choose another place with -o"
SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")
# Enough of a text to hold a page's title, a summary's first keys or a report's heading.
_BEGINNING = 4096
# How our own tables begin: of wrong images, of doubtful labels, and of a treatment's epochs.
_TABLES = ("path,label,predicted,confidence,verdict", "path,label,looks_like,label_doubt", "arm,seed,epoch")


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path | str | None], *, inside: bool = False) -> None:
    """Refuse outputs that are inputs, lie among the images, replace a foreign file, or cannot be written.

    Links and names that the file system takes for the same are seen through.

    Args:
        outputs: every file that will be written, derived ones, too.
        inputs: files and folders that are read; None, and names of data sets that are no path, are passed over.
        inside: whether outputs may lie directly in a folder that is read (never below it).

    Raises:
        UsageError: the first problem.
    """
    there = [path for path in (Path(name) for name in inputs if name is not None) if exists(path)]
    for output in outputs:
        try:
            _check_output(output, there, inside)
        except (OSError, RuntimeError) as error:  # a name that is too long, a link to itself
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UsageError(f"cannot write: {reason}", where=str(output), hint=_ELSEWHERE) from error


def _check_output(output: Path, there: Iterable[Path], inside: bool) -> None:
    """One output against what is read."""
    check_name(output)
    if "-" in output.parts:
        raise UsageError(
            "the output is -, which would be a file of this name",
            where=str(output),
            expected="a path: results are not written to stdout",
            hint="--json prints the summary there, where a command has it; or name a file",
        )
    for given in there:
        if given.is_file() and _same(output, given):
            raise UsageError(f"the output is an input, {given}", where=str(output), hint=_ELSEWHERE)
        if given.is_dir() and _among(output, given, inside):
            raise UsageError(
                f"the output lies among the images or masks of {given}",
                where=str(output),
                expected="a place outside of the data: the next run would take it for a part of them",
                hint=_ELSEWHERE,
            )
    if not output.is_dir():
        check_ours(output)
    check_writable(output)


def check_folder(output: Path) -> None:
    """Refuse a folder to write to that is a file, or takes none.

    Raises:
        UsageError: it is so.
    """
    if exists(output) and not output.is_dir():
        raise UsageError("it is no folder", where=str(output), expected="a folder to write to", hint=_ELSEWHERE)
    check_writable(output / "any")


def check_ours(output: Path, kind: str | None = None) -> None:
    """Refuse to replace a file that modeldoctor did not make.

    Args:
        output: of which a file may be there.
        kind: the suffix of what will be written; by default the output's own. Other suffixes are nobody's.

    Raises:
        UsageError: such a file is there.
    """
    recognise = _RECOGNISE.get((kind or output.suffix).lower())
    if recognise is None or not output.is_file() or output.stat().st_size == 0:
        return
    try:
        ours = recognise(output)
    except StoreError as error:
        raise UsageError(error.found, where=error.where, hint=error.hint) from error
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise UsageError(
            "there is a file that modeldoctor did not make", where=str(output), hint=f"{_ELSEWHERE}, or move that file"
        )


def _hdf5(path: Path) -> bool:
    with open_hdf5(path) as file:
        return "modeldoctor" in file.attrs or "schema" in file.attrs


def _text(path: Path) -> bool:
    with regular(path).open(encoding="utf-8", errors="replace") as file:
        beginning = file.read(_BEGINNING)
    return any(mark in beginning for mark in ("modeldoctor", '"checkpoint_sha256"', '"outcome"', "# Of the checkpoint"))


def _json(path: Path) -> bool:
    """Ours begin with their schema; others', such as annotations in a folder of this name, may hold the words."""
    with regular(path).open(encoding="utf-8", errors="replace") as file:
        beginning = file.read(_BEGINNING).split()[:2]
    return beginning == ["{", '"schema":'] and _text(path)


def _table(path: Path) -> bool:
    with regular(path).open(encoding="utf-8", errors="replace") as file:
        return file.readline(_BEGINNING).startswith(_TABLES)


def _cases(path: Path) -> bool:
    with regular(path).open(encoding="utf-8", errors="replace") as file:
        return "<testsuite" in file.read(_BEGINNING)


_RECOGNISE: dict[str, Callable[[Path], bool]] = {
    ".h5": _hdf5, ".hdf5": _hdf5, ".json": _json, ".html": _text, ".md": _text, ".yaml": _text,
    ".csv": _table, ".xml": _cases,
}  # fmt: skip


def _same(output: Path, given: Path) -> bool:
    return output.exists() and output.samefile(given)


def _among(output: Path, folder: Path, inside: bool) -> bool:
    """Whether a folder of splits or classes would take the output for one of its images."""
    output, folder = output.resolve(), folder.resolve()
    if folder not in output.parents:
        return False
    splits = [folder / name for name in SPLITS if (folder / name).is_dir()]
    if splits:  # a folder that is called as a split would be one on the next run
        first = output.relative_to(folder).parts[0]
        new_split = first.casefold() in SPLITS and output != folder / first
        return new_split or any(split in output.parents for split in splits)
    return not (inside and output.parent == folder)
