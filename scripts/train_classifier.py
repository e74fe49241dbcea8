#!/usr/bin/env python
"""Train a timm classifier on a small data set and write a checkpoint that says what it is.

scripts/train_classifier.py --data torchvision:FashionMNIST --root DIR --arch resnet18 --out resnet18.pt
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import timm
import torch
import typer
from rich.progress import Progress
from torch import Tensor

from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.data import open_data
from modeldoctor.demo.training import Recipe, classifier_checkpoint, fit_classifier, load_all


@torch.no_grad()
def accuracy(network: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    device = next(network.parameters()).device
    predicted = torch.cat([network(part.to(device)).argmax(1).cpu() for part in images.split(256)])
    return float((predicted == labels).float().mean())


def main(
    data: Annotated[str, typer.Option(help="as in `modeldoctor diagnose --data`")],
    out: Annotated[Path, typer.Option(help="the checkpoint to write")],
    root: Annotated[Path | None, typer.Option(help="where a named data set lies")] = None,
    arch: Annotated[str, typer.Option(help="a timm network")] = "resnet18",
    channels: int = 3,
    input_size: int = 96,
    epochs: int = 10,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    weight_decay: float = 5e-4,
    shift: int = 4,
    flip: bool = True,
    output_stride: Annotated[int | None, typer.Option(help="8 or 16 keep the last maps larger")] = None,
    seed: int = 0,
    workers: int = 2,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Train on the split `train`; print the accuracy of every split."""
    preprocessing = Preprocessing(
        input_size=(channels, input_size, input_size), mean=(0.5,) * channels, std=(0.25,) * channels
    )
    splits = open_data(data, preprocessing=preprocessing, root=root)
    train = splits["train"]
    recipe = Recipe(
        epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, weight_decay=weight_decay, seed=seed
    )
    torch.manual_seed(seed)
    model_args = {} if output_stride is None else {"output_stride": output_stride}
    network = timm.create_model(arch, num_classes=len(train.class_names), in_chans=channels, **model_args).to(device)
    images, labels = load_all(train, workers)
    with Progress() as bar:
        task = bar.add_task("train")
        fit_classifier(
            network,
            images,
            labels,
            **recipe,
            shift=shift,
            flip=flip,
            progress=lambda _, done, total: bar.update(task, completed=done, total=total),
        )
    for name, image_set in splits.items():
        pictures, truth = (images, labels) if name == "train" else load_all(image_set, workers)
        print(f"{name}: {accuracy(network, pictures, truth):.4f} of {len(truth)}")
    content = classifier_checkpoint(
        network,
        arch=arch,
        class_names=train.class_names,
        preprocessing=preprocessing,
        recipe=recipe,
        model_args=model_args,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, out)


if __name__ == "__main__":
    typer.run(main)
