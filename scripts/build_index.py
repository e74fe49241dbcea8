#!/usr/bin/env python
"""Build the index by which `modeldoctor identify` names a network from its weights: a signature of every classifier.

scripts/build_index.py [OUT]       about 15 minutes on one core; networks are built on the meta device, without memory
scripts/build_index.py --add       only those that the index does not know yet
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from modeldoctor.zoo.index import INDEX_FILE, describe_all, shipped_index
from modeldoctor.zoo.libraries import architectures


def main(
    out: Annotated[Path, typer.Argument()] = INDEX_FILE,
    add: Annotated[bool, typer.Option("--add", help="Add what the index that ships does not know.")] = False,
) -> None:
    """Build and write it, and name what could not be built."""
    console = Console()
    known = shipped_index() if add else None
    names = known.unknown(architectures()) if known else architectures()
    index = describe_all(track(names, "building", console=console))
    index = known.joined(index) if known else index
    index.write(out)
    console.print(
        f"{len(index.names)} architectures, {len(index.features)} features, {out.stat().st_size} bytes: {out}"
    )
    console.print(f"cannot be built: {', '.join(index.refused) or 'none'}")


if __name__ == "__main__":
    typer.run(main)
