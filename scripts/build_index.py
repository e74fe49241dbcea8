"""Build the index by which `modeldoctor identify` names a network from its weights: a signature of every classifier.

scripts/build_index.py [OUT]       about 15 minutes on one core; networks are built on the meta device, without memory
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from modeldoctor.zoo.index import INDEX_FILE, describe_all
from modeldoctor.zoo.libraries import architectures


def main(out: Annotated[Path, typer.Argument()] = INDEX_FILE) -> None:
    """Build and write it, and name what could not be built."""
    console = Console()
    index = describe_all(track(architectures(), "building", console=console))
    index.write(out)
    console.print(
        f"{len(index.names)} architectures, {len(index.features)} features, {out.stat().st_size} bytes: {out}"
    )
    console.print(f"cannot be built: {', '.join(index.refused) or 'none'}")


if __name__ == "__main__":
    typer.run(main)
