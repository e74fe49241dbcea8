#!/usr/bin/env python
"""Run a piece of the evidence and keep its figures; an interrupted piece goes on where it was.

scripts/reproduce/run.py                                 which pieces there are, and which are done
scripts/reproduce/run.py menagerie-arms --data DATA      then scripts/reproduce/write.py writes RESULTS.md
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from pieces import PIECES
from place import Place
from store import RESULTS, keep, kept


def main(
    piece: Annotated[str | None, typer.Argument(help="its name")] = None,
    data: Annotated[Path, typer.Option(help="the folder of the data sets")] = Path("data"),
    work: Annotated[Path, typer.Option(help="for networks, diagnoses and runs")] = Path("reproduce-work"),
    results: Annotated[Path, typer.Option(help="where the figures are kept")] = RESULTS,
) -> None:
    """Run one piece."""
    if piece not in PIECES:
        done = kept(results)
        for name, run in PIECES.items():
            when = f"{done[name]['date']}, {done[name]['machine']}" if name in done else "to do"
            print(f"{name:20} {when:45} {(run.__doc__ or '').splitlines()[0]}")
        raise typer.Exit(0 if piece is None else 2)
    work.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    figures = PIECES[piece](Place(data.resolve(), work.resolve()))
    print(keep(piece, figures, seconds=time.monotonic() - start, folder=results))


if __name__ == "__main__":
    typer.run(main)
