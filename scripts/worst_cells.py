#!/usr/bin/env python
"""The worst cells of class × another column of the groups' table, for every arm of an ended trial; chooses nothing.

scripts/worst_cells.py RUN --column background
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from modeldoctor.config.treat_file import load_treat_config
from modeldoctor.evaluate.metrics import class_groups
from modeldoctor.results.trial import read_trial
from modeldoctor.treatment.arm import predict_subset
from modeldoctor.treatment.preparation import prepare
from modeldoctor.zoo import load_model


def main(
    run: Annotated[Path, typer.Argument(help="a trial's folder")],
    column: Annotated[str, typer.Option(help="of the table that data.groups names")],
) -> None:
    """Read the test split under the weights of every arm and seed; accuracies of cells are means over seeds."""
    config = load_treat_config(run / "config.yaml", data__group_column=column)
    network = load_model(config.checkpoint, **config.network.model_dump(exclude_none=True))
    config, splits = prepare(config, network)
    cell, labels = class_groups(splits.test.held_out), splits.test.labels
    sizes = np.bincount(cell)
    table = Table("arm", "worst cell", "mean of the ten worst", title=f"{(sizes > 0).sum()} cells of class × {column}")
    module, original = network.module.eval(), {key: one.clone() for key, one in network.module.state_dict().items()}
    for arm in read_trial(run / "trial.json").arms:
        kept = [run / "arms" / f"{arm.arm}-{seed}.pt" for seed in arm.seeds if arm.arm != "original"]
        right = []
        for weights in [torch.load(path, weights_only=True)["best"] for path in kept] or [original]:
            module.load_state_dict(weights)
            right.append(predict_subset(module, splits.test, config, torch.device("cpu")) == labels)
        accuracy = np.bincount(cell, np.mean(right, 0))[sizes > 0] / sizes[sizes > 0]
        table.add_row(arm.arm, f"{accuracy.min():.1%}", f"{np.sort(accuracy)[:10].mean():.1%}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
