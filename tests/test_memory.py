"""Going on with less where memory ran out, and the meter against tensors of known size."""

from __future__ import annotations

import pytest
import torch
from networks import Dense, randomised

from modeldoctor.correlation import Noise, correlate_samples
from modeldoctor.diagnosis.chunks import Cost, measure_costs, plan_chunks
from modeldoctor.errors import MemoryLimitError, ModelDoctorWarning
from modeldoctor.graph import Cut, open_network, select_layers
from modeldoctor.memory import Rows, default_budget, peak_meter

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
    rows = Rows(80, "layer4")
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
        list(Rows(8).each(range(10), 4, of_at_most(0)))


def test_other_errors_are_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        list(Rows(8).each(range(10), 4, of_at_most(1, RuntimeError, "shapes do not fit")))


def test_figures_are_the_same_when_memory_runs_out_on_the_way() -> None:
    torch.manual_seed(0)
    network, images = randomised(Dense()).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    opened = open_network(network, images)
    (cut,) = opened.cuts(images, select_layers(opened.layers, Dense.layer))

    def narrow(maps: torch.Tensor) -> torch.Tensor:
        if len(maps) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return cut.head(maps)

    noise, labels = Noise(seed=0, delta=0.5), torch.tensor([1, 2])
    wanted = correlate_samples(cut, labels, [7, 8], noise=noise, draws=7, rows=Rows(14))
    rows, short = Rows(14), Cut(cut.layer, cut.maps, narrow)
    with pytest.warns(ModelDoctorWarning, match="out of memory"):
        found = correlate_samples(short, labels, [7, 8], noise=noise, draws=7, rows=rows)
    assert rows.number <= 4
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)


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
