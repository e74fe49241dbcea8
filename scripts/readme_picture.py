"""The README's picture: class × kernel maps of every layer of a diagnosis.

scripts/readme_picture.py diagnosis.h5 .github/kernels.png
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import typer

from modeldoctor import read_diagnosis


def main(diagnosis: Path, picture: Path) -> None:
    """Draw Â[n,k] with kernels sorted by the class that depends on them most."""
    found = read_diagnosis(diagnosis)
    threshold = found.config.threshold
    figure, axes = plt.subplots(
        len(found.layers), 1, figsize=(10, 1.25 * len(found.layers) + 0.6), dpi=110, layout="constrained"
    )
    for axis, layer in zip(np.atleast_1d(axes), found.layers.values(), strict=True):
        values = layer.normalised
        order = np.lexsort((-np.nanmax(values, 0), np.nanargmax(values, 0)))
        image = axis.imshow(values[:, order], aspect="auto", cmap="magma", vmin=0, vmax=1, interpolation="nearest")
        share = layer.correlated(threshold)[layer.count > 0].mean()
        axis.set_title(
            f"{layer.name}: {layer.channels} kernels, {layer.height}×{layer.width}; "
            f"a class depends on {share:.1%} of them (Â ≥ {threshold:g})",
            fontsize=9,
            loc="left",
        )
        axis.set_yticks(range(len(found.classes)), found.classes, fontsize=5)
        axis.set_xticks([])
    figure.colorbar(image, ax=axes, label="normalised class correlation Â", shrink=0.6)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture)


if __name__ == "__main__":
    typer.run(main)
