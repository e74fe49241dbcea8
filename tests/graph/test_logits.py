"""Networks whose logits of an image are not its own are refused, by every command that measures."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from conftest import Clinic
from torch import Tensor, nn

import modeldoctor
from modeldoctor.diagnosis.annotate import annotate
from modeldoctor.errors import ArchitectureError, GraphError
from modeldoctor.graph.logits import logits_of, refuse_unsteady

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Restless(nn.Module):
    """Dropout whatever the mode."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x.mean(3).flatten(1), 0.5, training=True)


def without_statistics() -> nn.Module:
    network = timm.create_model("test_resnet", num_classes=4)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    return network.eval()


def test_an_image_whose_logits_change_with_its_batch_is_refused() -> None:
    network = without_statistics()
    with torch.no_grad():
        assert not torch.allclose(network(IMAGES)[:1], network(torch.cat([IMAGES[:1]] * 2))[:1], atol=1e-3)  # the fault
    with pytest.raises(ArchitectureError, match=r"(?s)other images of its batch.*where: conv1.* without running stati"):
        refuse_unsteady(network, IMAGES)


def test_a_network_that_is_another_each_time_is_refused() -> None:
    with pytest.raises(ArchitectureError, match="other logits each time"):
        refuse_unsteady(Restless(), IMAGES)


def test_a_network_whose_logits_are_not_finite_is_refused_by_the_weight_that_does_it() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)).eval()
    for value in (torch.nan, torch.inf, -torch.inf):
        with torch.no_grad():
            network[1].bias[2] = value
        with pytest.raises(ArchitectureError, match=r"(?s)NaN or infinite.*where: 1\.bias.*diverged"):
            refuse_unsteady(network, IMAGES)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(3), nn.GroupNorm(1, 3), nn.BatchNorm2d(3)])
def test_normalisation_within_an_image_or_by_running_statistics_is_fine(norm: nn.Module) -> None:
    refuse_unsteady(nn.Sequential(norm, nn.Flatten(), nn.Linear(3 * 32 * 32, 4)).eval(), IMAGES)


def test_the_first_of_several_outputs_holds_the_logits() -> None:
    class Several(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.mean((2, 3)), x

    torch.testing.assert_close(logits_of(Several(), IMAGES), IMAGES.mean((2, 3)))
    with pytest.raises(GraphError, match="not one row of logits"):
        logits_of(nn.Identity(), IMAGES)


def test_no_command_measures_such_a_network(clinic: Clinic, tmp_path: Path) -> None:
    network = modeldoctor.load_model(
        without_statistics(), preprocessing=modeldoctor.load_model(clinic.checkpoint).preprocessing
    )
    with pytest.raises(ArchitectureError, match="other images of its batch"):
        modeldoctor.diagnose(network, clinic.data)
    with pytest.raises(ArchitectureError, match="other images of its batch"):
        modeldoctor.diagnose(network, clinic.data, config=modeldoctor.DiagnoseConfig(hooks=True))
    with pytest.raises(ArchitectureError, match="other images of its batch"):
        annotate(network, clinic.data, output=tmp_path / "picked")
    assert not list(tmp_path.rglob("*.png"))
