"""What each process of a test job does: a diagnosis, training batches and one step's gradients, into a folder.

torchrun --nproc-per-node 2 tests/distributed_job.py FOLDER CHECKPOINT DATA MASKS
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from networks import Pooled, randomised
from PIL import Image

from modeldoctor.config.diagnose import DiagnoseConfig, Preprocessing
from modeldoctor.config.treat import TreatConfig
from modeldoctor.data import ImageSet, open_data
from modeldoctor.data.pictures import Pictures, UnreadableError
from modeldoctor.diagnosis import diagnose
from modeldoctor.graph import select_layers
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.runtime.distributed import Team, job
from modeldoctor.treatment.batches import TrainingBatch, epoch_order, training_batches
from modeldoctor.treatment.penalty import Penalty
from modeldoctor.treatment.subsets import Subset
from modeldoctor.zoo import load_model

DIAGNOSIS = DiagnoseConfig(
    layers="layer2.0.conv2,layer3.0.conv3", noise_draws=2, batch_size=7, samples_per_class=10, device="cpu"
)
# Of training batches: how much is mixed, and how many images of the first process's part of the first batch are broken.
BATCHES = {"plain": (0.0, 0), "mixed": (0.4, 0), "broken": (0.0, 2), "too broken": (0.0, 4)}


def gradients(team: Team) -> dict[str, torch.Tensor]:
    """One training step's gradients, running statistics and figures, on five images of which two are annotated."""
    torch.manual_seed(0)
    network = randomised(Pooled()).double()
    images, labels = torch.randn(5, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 3, 1, 2, 0])
    masks = torch.rand(5, 8, 8) < 0.1
    annotated = torch.tensor([True, True, False, False, False])  # all in the first process's share
    trainable = TrainableNetwork(network, images, team)
    (layer,) = select_layers(trainable.layers, Pooled.layer)
    attribution = SimpleNamespace(weight=1.0, attribution="gradient_x_activation")
    penalty = Penalty(
        config=SimpleNamespace(channel=attribution, space=attribution, noise_draws=3, delta=0.1),
        channel_layers=(layer,),
        space_layers=(layer,),
        correlated={layer.name: torch.rand(4, 5) < 0.5},
        scales={layer.name: 1.0},
        expand_px=0,
        rows={},
        team=team,
    )
    mine = team.shard(5)
    logits, cuts = trainable.training_pass(images[mine], penalty.layers)
    batch = TrainingBatch(
        images=images, labels=labels, other_labels=labels, share=torch.ones(5), masks=masks, annotated=annotated,
        trust=torch.tensor([1, 0.5, 1, 1, 1]),
        weight=torch.ones(5), version=torch.zeros(5, dtype=torch.int64), origin=torch.arange(5), keys=tuple(range(5)),
        whole=5,
    ).part(mine)  # fmt: skip
    terms = penalty.terms(logits, cuts, batch, seed=1)
    loss = batch.loss(logits, 0.0)
    (loss + penalty.total(terms)).backward()
    team.all_reduce_gradients(network.parameters())
    figures = {name: one.grad for name, one in network.named_parameters() if one.grad is not None}
    figures |= {name: one for name, one in network.named_buffers() if "running" in name}
    return (
        figures
        | {"/".join(key): team.all_reduce(term) for key, term in terms.items()}
        | {"loss": team.all_reduce(loss)}
    )


def batches(team: Team, data: Path, masks: Path, case: str) -> list[dict[str, torch.Tensor]]:
    """This process's parts of two batches: of five images, one or two of them annotated."""
    mixup, broken = BATCHES[case]
    preprocessing = Preprocessing(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    images = open_data(str(data), preprocessing=preprocessing, masks=masks)["train"]
    assert isinstance(images, ImageSet)
    annotated = np.flatnonzero(Subset(images=images, indices=np.arange(len(images))).has_mask)[:3]
    config = TreatConfig(
        checkpoint="a.pt", data={"path": str(data), "masks": masks}, space={"annotated_share": 0.3},
        training={"batch_size": 5, "mixup": mixup},
    )  # fmt: skip
    part = Subset(images=images, indices=np.arange(10, 20))
    order = epoch_order(part.indices, annotated, batch_size=5, share=0.3, seed=0, epoch=0)
    images.pictures = _Some(images.pictures, {int(index) for index in order[:broken]})
    made = training_batches(part, annotated, config, seed=0, epoch=0, team=team)
    return [{**vars(batch), "keys": torch.tensor(batch.keys), "whole": torch.tensor(batch.whole)} for batch in made]


class _Some:
    """Pictures of which some cannot be read."""

    def __init__(self, pictures: Pictures, broken: set[int]):
        self.pictures, self.broken = pictures, broken
        self.size, self.orientation = pictures.size, pictures.orientation

    def read(self, index: int, mode: str) -> Image.Image:
        if index in self.broken:
            raise UnreadableError("broken")
        return self.pictures.read(index, mode)


def main(folder: Path, checkpoint: Path, data: Path, masks: Path) -> None:
    torch.set_num_threads(1)
    with job() as team:
        found = diagnose(load_model(checkpoint), data, config=DIAGNOSIS, masks=masks, output=folder / "d.h5", team=team)
        torch.save(gradients(team), folder / f"gradients-{team.rank}.pt")
        for case in BATCHES:
            torch.save(batches(team, data, masks, case), folder / f"batches-{case}-{team.rank}.pt")
        (folder / f"wrong-{team.rank}.txt").write_text(str(found.wrong_count))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
