"""What networks of one's own give back: the logits are those of the same network that gives them alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured

import modeldoctor
from modeldoctor.errors import ArchitectureError, ModelDoctorError
from modeldoctor.graph import CutNetwork, logits_of, refuse_unsteady
from modeldoctor.graph.capture import capture
from modeldoctor.graph.logits import logits_of as plain_logits

EDGE, CLASSES = 12, 3


class Net(nn.Module):
    """`give` makes of features (B,8) and logits (B,3) what a forward pass returns."""

    def __init__(self, give: Callable[[Tensor, Tensor], Any], classes: int = CLASSES) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, classes)
        self.embed = nn.Linear(8, 20)
        self.give = give

    def forward(self, images: Tensor) -> Any:
        features = self.conv(images).relu().mean((2, 3))
        return self.give(features, self.fc(features))


@dataclass
class Output:
    hidden: Tensor
    logits: Tensor


def plain(features: Tensor, logits: Tensor) -> Tensor:
    return logits


def network(give: Callable[[Tensor, Tensor], Any], classes: int = CLASSES) -> Net:
    torch.manual_seed(0)
    return Net(give, classes).eval()


GIVEN: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mapping": lambda features, logits: {"features": features, "logits": logits},
    "object": lambda features, logits: Output(features, logits),
    "second": lambda features, logits: {"embedding": features.repeat(1, 3)[:, :20], "pred": logits},
    "nested": lambda features, logits: {"output": {"logits": logits}},
    "maps": lambda features, logits: logits[..., None, None],
    "squeezed": lambda features, logits: logits.squeeze(),
    "softmax": lambda features, logits: torch.softmax(logits, dim=1),
    "method": lambda features, logits: (logits * 3).softmax(-1),
    "log_softmax": lambda features, logits: nn.functional.log_softmax(logits, dim=1),
    "module": lambda features, logits: nn.Softmax(dim=1)(logits),
    "gate": lambda features, logits: nn.functional.softmax(logits * torch.softmax(logits, 1), dim=1),
    "sigmoid": lambda features, logits: logits.sigmoid(),
    "both": lambda features, logits: {"features": features, "pred": logits.softmax(1)},
}
WHAT = {"method": lambda logits: 3 * logits, "gate": lambda logits: logits * logits.softmax(1)}


@pytest.mark.parametrize("kind", GIVEN)
def test_the_logits_are_found(kind: str) -> None:
    """In any batch, and in a graph of the network."""
    found = modeldoctor.load_model(network(GIVEN[kind]), input_size=EDGE)
    assert found.num_classes == CLASSES
    with torch.no_grad():
        for count in (1, 5):
            images = torch.rand(count, 3, EDGE, EDGE)
            right = WHAT.get(kind, lambda logits: logits)(network(plain)(images))
            torch.testing.assert_close(logits_of(found.module, images), right)
            torch.testing.assert_close(logits_of(copy.deepcopy(found.module), images), right)
        cut = CutNetwork(capture(found.module, torch.rand(2, 3, EDGE, EDGE)))
        torch.testing.assert_close(cut.logits(images), right)
    assert any("left out" in note for note in found.notes) == (
        kind in ("softmax", "method", "log_softmax", "module", "gate", "sigmoid", "both")
    )


def test_a_tuple_whose_first_has_another_number_of_columns_gives_the_one_that_is_said() -> None:
    found = modeldoctor.load_model(
        network(lambda features, logits: (features, logits)), input_size=EDGE, class_names=("a", "b", "c")
    )
    images = torch.rand(2, 3, EDGE, EDGE)
    torch.testing.assert_close(logits_of(found.module, images), network(plain)(images))
    assert any("number 2" in note for note in found.notes)


@pytest.mark.parametrize(
    "give",
    [
        lambda features, logits: logits.sigmoid(),
        lambda features, logits: logits.squeeze(1),
        lambda features, logits: torch.sigmoid(logits).squeeze(),
    ],
)
def test_one_logit_behind_a_sigmoid_or_without_a_row_is_two_classes(give: Callable[[Tensor, Tensor], Any]) -> None:
    net = network(give, 1)
    del net.embed
    found = modeldoctor.load_model(net, input_size=EDGE)
    images = torch.rand(3, 3, EDGE, EDGE)
    with torch.no_grad():
        z = network(plain, 1)
        features = net.conv(images).relu().mean((2, 3))
        logit = z.fc(features)
        torch.testing.assert_close(logits_of(found.module, images), torch.cat([torch.zeros_like(logit), logit], 1))
    assert found.num_classes == 2


@pytest.mark.parametrize(
    ("give", "said"),
    [
        (lambda features, logits: (logits.softmax(1) + features[:, :3].softmax(1)) / 2, "gives probabilities"),
        (lambda features, logits: {"loss": logits.sum()}, "gives a dict|gives dict of loss"),
        (lambda features, logits: logits[:, None, :, None].repeat(1, 2, 1, 1), r"gives a tensor \(2, 2, 3, 1\)"),
        (lambda features, logits: logits @ torch.rand(5, 5), "forward pass fails on images .2, 3, 12, 12."),
    ],
)
def test_what_gives_no_logits_says_what_it_gives(give: Callable[[Tensor, Tensor], Any], said: str) -> None:
    with pytest.raises(ArchitectureError, match=said) as caught:
        modeldoctor.load_model(network(give), input_size=EDGE)
    assert caught.value.hint


def test_a_forward_of_one_batch_size_is_told() -> None:
    net = network(lambda features, logits: logits.view(2, CLASSES))
    with pytest.raises(ModelDoctorError, match=r"fails on images \(5, 3, 12, 12\)"):
        plain_logits(net, torch.rand(5, 3, EDGE, EDGE))


def test_logits_that_are_not_finite_are_refused() -> None:
    net = network(plain)
    net.fc.bias.data[1] = float("nan")
    with pytest.raises(ArchitectureError, match="NaN or infinite"):
        refuse_unsteady(net, torch.rand(2, 3, EDGE, EDGE))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:.*quantiz.*")
@pytest.mark.parametrize(
    "change",
    [
        torch.nn.utils.weight_norm,
        torch.nn.utils.spectral_norm,
        torch.nn.utils.parametrizations.weight_norm,
        lambda layer: l1_unstructured(layer, "weight", amount=0.5),
    ],
)
def test_networks_that_keep_what_they_computed_are_copied(change: Callable[[nn.Module], Any]) -> None:
    net = network(plain)
    change(net.conv)
    images = torch.rand(2, 3, EDGE, EDGE)
    net(images)
    right = net.eval()(images)
    found = modeldoctor.load_model(net, input_size=EDGE)
    torch.testing.assert_close(logits_of(found.module, images), right)


@pytest.mark.filterwarnings("ignore")
def test_a_quantized_network_is_named() -> None:
    quantized = torch.ao.quantization.quantize_dynamic(network(plain), {nn.Linear})
    with pytest.raises(ArchitectureError, match="is quantized"):
        modeldoctor.load_model(quantized, input_size=EDGE)


class Extra(Net):
    def get_extra_state(self) -> Any:
        return {"version": 3}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"version": 3}


def test_a_state_of_ones_own_beside_the_tensors_does_no_harm() -> None:
    images = torch.rand(2, 3, EDGE, EDGE)
    torch.manual_seed(0)
    found = modeldoctor.load_model(Extra(plain).eval(), input_size=EDGE)
    torch.testing.assert_close(logits_of(found.module, images), network(plain)(images))


HEAD_FIRST = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=7):
        super().__init__()
        self.head = nn.Linear(8, num_classes)
        self.conv = nn.Conv2d(3, 8, 3)
        self.embed = nn.Linear(8, 20)
    def forward(self, images):
        return self.head(self.conv(images).relu().mean((2, 3)))

class Demanding(Net):
    def __init__(self, num_classes):
        super().__init__(num_classes)
"""


@pytest.mark.parametrize("name", ["Net", "Demanding"])
@pytest.mark.parametrize("classes", [1, 3])
def test_a_head_that_is_not_the_last_layer_gives_the_number_of_classes(tmp_path: Path, name: str, classes: int) -> None:
    (tmp_path / "head_first.py").write_text(HEAD_FIRST)
    scope: dict[str, Any] = {}
    exec(HEAD_FIRST, scope)
    module = scope[name](classes).eval()
    torch.save(module.state_dict(), tmp_path / "net.pt")
    images = torch.rand(2, 3, EDGE, EDGE)
    with torch.no_grad():
        right = module(images)
        right = torch.cat([torch.zeros_like(right), right], 1) if classes == 1 else right
        for found in (
            modeldoctor.load_model(tmp_path / "net.pt", arch=f"{tmp_path}/head_first.py:{name}", input_size=EDGE),
            modeldoctor.load_model(module, input_size=EDGE),
        ):
            assert found.num_classes == max(classes, 2)
            torch.testing.assert_close(logits_of(found.module, images), right)
