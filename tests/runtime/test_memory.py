"""Going on with less where memory ran out, and the meter against tensors of known size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
import torchvision
from networks import Dense, randomised
from torch import Tensor, nn

from modeldoctor.diagnosis.chunks import Cost, measure_costs, plan_chunks
from modeldoctor.errors import MemoryLimitError, ModelDoctorWarning
from modeldoctor.graph import Cut, Layer, open_network, select_layers
from modeldoctor.graph.trainable import TrainableNetwork
from modeldoctor.method.attribution import Attribution, attribute
from modeldoctor.method.correlation import correlate_samples
from modeldoctor.method.noise import Noise
from modeldoctor.runtime.memory import BatchLimit, default_budget, peak_meter, steady_budget
from modeldoctor.treatment.copies import Cost as CopyCost
from modeldoctor.treatment.copies import measure_copies, plan_copies

CPU = torch.device("cpu")
MIB = 2**20


def of_at_most(limit: int, kind: type[Exception] = torch.OutOfMemoryError, text: str = "CUDA out of memory"):
    """A call that sums its part, and fails for a longer one."""

    def call(part) -> int:
        if len(part) > limit:
            raise kind(text)
        return sum(part)

    return call


@pytest.mark.parametrize("failure", [
    (torch.OutOfMemoryError, "CUDA out of memory"),
    (MemoryError, ""),
    (RuntimeError, "[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
])  # fmt: skip
def test_out_of_memory_halves_the_rows_for_good_and_says_so_once(failure) -> None:
    rows = BatchLimit(80, "layer4")
    with pytest.warns(ModelDoctorWarning, match="out of memory at layer4 with 40 rows") as said:
        assert sum(rows.each(range(10), 4, of_at_most(3, *failure))) == 45
    assert len(said) == 1
    assert rows.number == 8
    assert list(rows.each(range(10), 4, of_at_most(3, *failure))) == [1, 5, 9, 13, 17]


def test_without_memory_for_one_copy_it_ends_and_says_what_to_do() -> None:
    with (
        pytest.warns(ModelDoctorWarning, match="out of memory"),
        pytest.raises(MemoryLimitError, match=r"one copy of 4 images[\s\S]*--batch-size"),
    ):
        list(BatchLimit(8).each(range(10), 4, of_at_most(0)))


def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        list(BatchLimit(8).each(range(10), 4, of_at_most(1, RuntimeError, "shapes do not fit")))


def test_figures_are_the_same_when_memory_runs_out_on_the_way() -> None:
    torch.manual_seed(0)
    network, images = randomised(Dense()).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    opened = open_network(network, images)
    (cut,) = opened.cuts(images, select_layers(opened.layers, Dense.layer))

    noise, labels = Noise(seed=0, delta=0.5), torch.tensor([1, 2])
    wanted = correlate_samples(cut, labels, [7, 8], noise=noise, draws=7, rows=BatchLimit(14))
    rows, short = BatchLimit(14), short_of_memory(cut)
    with pytest.warns(ModelDoctorWarning, match="out of memory"):
        found = correlate_samples(short, labels, [7, 8], noise=noise, draws=7, rows=rows)
    assert rows.number <= 4
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


def short_of_memory(cut: Cut) -> Cut:
    """One that cannot run more than four rows."""

    def narrow(maps: Tensor, alive: Sequence[Tensor]) -> Tensor:
        if len(maps) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return cut.suffix(maps, alive)

    return cut._replace(suffix=narrow)


def test_a_constraints_gradient_is_the_same_when_memory_runs_out_on_the_way() -> None:
    network, images, layers = constrained()
    trainable, rows, gradients = TrainableNetwork(network, images), BatchLimit(14), []
    for short in (False, True):
        _, (cut,) = trainable.training_pass(images, layers)
        noise = Noise(seed=0, delta=0.5).draw("a", [7, 8], range(7), cut.maps)
        with pytest.warns(ModelDoctorWarning, match="out of memory") if short else nullcontext():
            found = attribute(short_of_memory(cut) if short else cut, CLASSES, noise, WANTED, rows)
        loss = torch.stack([one.square().sum() for one in found.values()]).sum()
        gradients.append(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))
    assert rows.number <= 4
    # The last bias alone does not enter a derivative.
    for (name, _), one, other in zip(network.named_parameters(), *gradients, strict=True):
        assert (name == "fc2.bias") == (one is None) == (other is None)
        if one is not None:
            assert one.any()
            torch.testing.assert_close(one, other)


CLASSES = torch.tensor([[1, 2], [3, 3]])
WANTED = {Attribution.GRADIENT: 2, Attribution.GRADIENT_X_ACTIVATION: 1}


def constrained() -> tuple[nn.Module, Tensor, Sequence[Layer]]:
    torch.manual_seed(0)
    network, images = randomised(Dense()).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    return network, images, select_layers(TrainableNetwork(network, images).layers, Dense.layer)


def step_peak(network: nn.Module, images: Tensor, layers: Sequence[Layer], draws: int, rows: int) -> float:
    """Bytes of a constrained step beside its noise."""
    trainable = TrainableNetwork(network, images)
    with peak_meter(CPU) as meter:
        _, (cut,) = trainable.training_pass(images, layers)
        noise = Noise(seed=0, delta=0.5).draw("a", [7, 8], range(draws), cut.maps)
        before = meter.now()
        found = attribute(cut, CLASSES, noise, WANTED, BatchLimit(rows))
        torch.stack([one.sum() for one in found.values()]).sum().backward()
        return meter.peak() - before


def test_a_constrained_step_takes_no_more_memory_for_more_draws() -> None:
    setting = constrained()
    few, many, at_once = (step_peak(*setting, draws, rows) for draws, rows in ((4, 2), (32, 2), (32, 64)))
    assert many == pytest.approx(few, rel=0.02)
    assert at_once > 4 * many


def test_copies_cost_what_they_take() -> None:
    network, images, layers = constrained()
    costs, image = measure_copies(TrainableNetwork(network, images), layers, WANTED, images)
    cost = costs[Dense.layer]
    for draws in (4, 16):
        taken = step_peak(network, images, layers, draws, 99)
        assert taken <= cost.fixed + 2 * draws * cost.row <= 1.5 * taken
    assert image >= 8 * (6 * 3 * 3 + 7 + 4)  # maps, hidden layer and logits in float64
    pictures = torch.randn(2, 3, 32, 32)
    closed = TrainableNetwork(torchvision.models.resnet18(num_classes=4), pictures)
    assert measure_copies(closed, select_layers(closed.layers, "last"), WANTED, pictures)[0] == {}


def test_copies_are_planned_within_the_budget() -> None:
    costs = {"a": CopyCost(row=2 * MIB, fixed=10 * MIB), "b": CopyCost(row=MIB, fixed=4 * MIB)}
    # 100 MiB less 8 images of 2 MiB each and the gradients of weights is 74 MiB, half for each layer's graph.
    rows = plan_copies(costs, 2 * MIB, 100 * MIB, 8, torch.device("cuda"), strict=True)
    assert {name: one.number for name, one in rows.items()} == {"a": 18, "b": 37}
    # On a CPU no more than weights' gradients make worth it, and a whole batch at least.
    rows = plan_copies(costs, 2 * MIB, 1000 * MIB, 8, CPU, strict=True)
    assert {name: one.number for name, one in rows.items()} == {"a": 20, "b": 16}
    assert plan_copies(costs, 2 * MIB, 0, 8, CPU, strict=False)["a"].number == 8
    with pytest.raises(MemoryLimitError, match="30 MiB") as failed:
        plan_copies(costs, 2 * MIB, 30 * MIB, 8, CPU, strict=True)
    assert failed.value.expected == "at least 42 MiB, for one copy of 8 images behind a"
    assert "training.batch_size" in str(failed.value.hint)
    assert plan_copies({}, 2 * MIB, 1, 8, CPU, strict=True) == {}


def test_the_steady_budget_is_a_share_of_all_memory() -> None:
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < steady_budget(CPU, 2) <= everything / 8
    assert steady_budget(CPU) == pytest.approx(2 * steady_budget(CPU, 2), abs=2)


def test_the_meter_counts_what_is_alive() -> None:
    before = torch.ones(MIB // 4)
    with peak_meter(CPU) as meter:
        one = before * 2  # 1 MiB
        view = one.view(-1, 4)
        two = torch.cat([one, one])  # 2 MiB
        assert meter.now() == 3 * MIB
        del two
        assert (meter.now(), meter.peak()) == (MIB, 3 * MIB)
        meter.restart()
        view.add_(1)
        assert meter.peak() == MIB
        del one, view
        assert meter.now() == 0


def test_the_meter_counts_a_backward_pass() -> None:
    x = torch.ones(MIB // 4, requires_grad=True)
    with peak_meter(CPU) as meter:
        (x.exp() * 3).sum().backward()
    assert meter.peak() >= 3 * MIB  # exp, product or its gradient, gradient of x


def test_costs_are_measured_and_what_is_planned_fits() -> None:
    network, images = randomised(Dense()), torch.randn(2, 3, 8, 8)
    opened = open_network(network, images)
    costs, whole = measure_costs(opened, opened.layers, images)
    cost, maps = costs[Dense.layer], 6 * 3 * 3 * 4
    assert 3 * maps < cost.row < 40 * maps
    assert whole >= maps
    chunks = plan_chunks(costs, whole, int(20 * cost.row + 3 * cost.image), 3, CPU)
    assert (chunks.batch, chunks.rows[Dense.layer].number) == (3, 20)


@pytest.mark.parametrize(
    ("budget", "batch", "rows"), [(10 * MIB, 3, 7), (5 * MIB, 2, 3), (2 * MIB, 1, 1), (1000 * MIB, 16, 64)]
)
def test_images_and_rows_share_the_budget(budget: int, batch: int, rows: int) -> None:
    chunks = plan_chunks({"a": Cost(MIB, MIB), "b": Cost(MIB / 2, MIB / 4)}, MIB, budget, 3 if batch < 4 else 16, CPU)
    assert (chunks.batch, chunks.rows["a"].number) == (batch, rows)


def test_a_budget_too_small_for_one_image_is_said() -> None:
    with pytest.raises(MemoryLimitError, match=r"1 MiB[\s\S]*at least 2 MiB, for one image at a"):
        plan_chunks({"a": Cost(MIB, MIB)}, MIB, MIB, 16, CPU)


def test_processes_on_one_machine_share_what_is_free() -> None:
    assert 0 < default_budget(CPU, 4) < default_budget(CPU, 1)
