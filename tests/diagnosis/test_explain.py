"""Evidence on single images against formulas by hand, limits against numpy, and the order of verdicts."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from networks import Pooled, randomised
from scipy import stats
from torch import Tensor, nn

from modeldoctor.diagnosis.explain import Evidence, Probe, find_limits, gather_evidence, judge
from modeldoctor.diagnosis.interventions import Backgrounds, intervene
from modeldoctor.graph import Layer, open_network, select_layers
from modeldoctor.results.diagnosis import LayerDiagnosis, Limits, Misdiagnosis, Verdict
from modeldoctor.runtime.memory import BatchLimit

NAN = float("nan")


class Threshold(nn.Module):
    """One kernel, one position: predicts class 1 while the kernel's output is positive, class 0 below."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.fc = nn.Linear(1, 2)
        with torch.no_grad():
            self.conv.weight.fill_(1.0)
            self.fc.weight.copy_(torch.tensor([[-1.0], [1.0]]))
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).flatten(1))


def profile(name: str, correlation: np.ndarray, activation: np.ndarray | None = None) -> LayerDiagnosis:
    number, channels = correlation.shape
    return LayerDiagnosis(
        name=name, kind="conv", channels=channels, height=1, width=1, depth=0.5, macs_after=1, delta=0.1,
        activation_std=1.0, correlation=correlation, variance=correlation * 0, count=np.ones(number, dtype=np.int32),
        signed=correlation, activation=correlation if activation is None else activation, contribution=correlation,
    )  # fmt: skip


def probe(
    layers: tuple[Layer, ...], of: LayerDiagnosis, ranges: tuple[float, ...] = (0.5, 2.0), draws: int = 0
) -> Probe:
    names = [layer.name for layer in layers]
    return Probe(
        layers=layers,
        scales=dict.fromkeys(names, 1.0),
        profile=of,
        threshold=0.2,
        noise_ranges=ranges,
        draws=draws,
        delta=0.1,
        seed=0,
        rows={name: BatchLimit(64) for name in names},
    )


def gather(network: nn.Module, images: Tensor, labels: list[int], predicted: list[int], how: Probe, masks=None):
    opened = open_network(network, images.repeat(2, 1, 1, 1), ",".join(layer.name for layer in how.layers))
    keys = list(range(len(images)))
    confidence = [0.9] * len(images)
    truth, guess = torch.tensor(labels), torch.tensor(predicted)
    return gather_evidence(opened, how, images, masks, truth, guess, confidence, keys, keys)


def test_stability_is_the_share_of_draws_that_keep_the_prediction() -> None:
    network = Threshold().eval()
    images = torch.tensor([0.25, 0.75, 1.5]).view(3, 1, 1, 1)
    layers = open_network(network, images).layers
    how = probe(layers, profile("conv", np.ones((2, 1))), ranges=(0.5, 2.0), draws=400)
    found = gather(network, images, [0, 0, 1], [1, 1, 1], how)
    for image, value in zip(found, (0.25, 0.75, 1.5), strict=True):
        for row, delta in enumerate((0.5, 2.0)):
            kept = min(1.0, (delta + value) / (2 * delta))  # P(value + U[-δ, δ] > 0)
            test = stats.binomtest(round(image.stability[row] * 400), 400, kept) if kept < 1 else None
            assert image.stability[row] == 1.0 if test is None else test.pvalue > 1e-4
    assert found[0].fallback[0] == pytest.approx(1 - found[0].stability[0])
    assert found[2].fallback == [0.0, 0.0]  # it is right; there is nothing to fall back to


def test_stability_does_not_depend_on_how_images_are_batched() -> None:
    torch.manual_seed(0)
    network, images = randomised(Pooled()), torch.randn(4, 3, 8, 8)
    layers = open_network(network, images).layers
    how = probe(layers, profile(layers[-1].name, np.ones((4, 5))), ranges=(1.0, 5.0), draws=20)
    predicted = network(images).argmax(1).tolist()
    together = gather(network, images, predicted, predicted, how)
    small = replace(how, rows={name: BatchLimit(4) for name in how.rows})
    assert [one.stability for one in gather(network, images, predicted, predicted, small)] == [
        one.stability for one in together
    ]
    assert min(min(one.stability) for one in together) < 1


def test_foreign_kernels_and_resemblance_by_hand() -> None:
    torch.manual_seed(0)
    network, images = randomised(Pooled()), torch.randn(1, 3, 8, 8)
    (layer,) = select_layers(open_network(network, images.repeat(2, 1, 1, 1)).layers, "conv2")
    maps, identity = network.prefix(images)
    jacobian = torch.autograd.functional.jacobian(lambda m: network.suffix(m, identity), maps.detach())
    sizes = jacobian[0, 2, 0].abs().sum((1, 2)).double().numpy()  # a_k for class 2
    own = np.array([1.0, 0.0, 0.9, 0.1, 0.15])  # Â of class 0 is the same; kernels 1, 3 and 4 are not correlated
    activation = np.array([[1.0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0], [0.3, 0.2, 0.5, 0.1, 0.9], [NAN] * 5])
    of = profile("conv2", np.stack([own, own[::-1], own * 2, own * NAN]), activation)
    (found,) = gather(network, images, [0], [2], probe((layer,), of))

    image = (sizes - sizes.min()) / (sizes.max() - sizes.min())
    foreign = sorted((k for k in (1, 3, 4) if image[k] >= 0.2), key=lambda k: -sizes[k])
    assert foreign
    assert [kernel["channel"] for kernel in found.kernels] == foreign
    assert found.foreign_share == pytest.approx(sizes[foreign].sum() / sizes.sum(), rel=1e-5)
    assert found.kernels[0]["size"] == pytest.approx(sizes[foreign[0]], rel=1e-5)
    assert found.kernels[0]["own_class"] == own[foreign[0]]
    assert found.kernels[0]["predicted_class"] == 2 * own[foreign[0]]
    mean = maps[0].mean((1, 2)).detach().double().numpy()
    cosine = [float(row @ mean / np.linalg.norm(row) / np.linalg.norm(mean)) for row in activation[:3]]
    assert found.resembles == int(np.argmax([-9, *cosine[1:]]))
    assert found.resemblance == pytest.approx(max(cosine[1:]) - cosine[0], rel=1e-5)


def test_background_share_counts_cells_by_how_much_of_them_is_background() -> None:
    class Summed(nn.Module):
        """y_1 = Σ m over 2 x 2 cells of 2 px: the evidence of a cell is |m|."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 1, 2, stride=2, bias=False), nn.Linear(4, 2, bias=False)
            with torch.no_grad():
                self.conv.weight.fill_(0.25)
                self.fc.weight.copy_(torch.tensor([[0.0] * 4, [1.0] * 4]))

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.conv(x).flatten(1))

    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    images = values.repeat_interleave(2, 0).repeat_interleave(2, 1)[None, None].repeat(2, 1, 1, 1)
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2, :2] = True  # the cell of 1
    mask[2, 2] = True  # a quarter of the cell of 4
    network = Summed().eval()
    layers = open_network(network, images).layers
    found = gather(network, images, [0, 0], [1, 1], probe(layers, profile("conv", np.ones((2, 1)))), [mask, None])
    assert found[0].background_share == pytest.approx((2 + 3 + 4 * 0.75) / 10)
    assert math.isnan(found[1].background_share)


def evidence(**figures: object) -> Evidence:
    usual = {
        "sample": 0, "label": 0, "predicted": 1, "confidence": 0.9, "stability": [1.0, 1.0], "fallback": [0.0, 0.0],
        "background_share": NAN, "foreign_share": 0.0, "resembles": 1, "resemblance": -0.5, "kernels": [],
        "without_object": NAN, "stays_without_object": NAN, "other_backgrounds": NAN, "misleads_others": NAN,
        "own_backgrounds": NAN,
    }  # fmt: skip
    return Evidence(**(usual | figures))


def make_probe() -> Probe:
    layer = Layer(name="conv", kind="conv", channels=1, height=1, width=1, depth=1.0, macs_after=1)
    return probe((layer,), profile("conv", np.ones((2, 1))))


def test_a_shaky_networks_references_set_the_limit_of_stability() -> None:
    shares = np.linspace(0.1, 1.0, 200)
    found = find_limits([evidence(stability=[1.0, share]) for share in shares], make_probe())
    assert found is not None
    assert found.noise_range == 0.5
    shaky = find_limits([evidence(stability=[share, share]) for share in shares], make_probe())
    assert shaky is not None
    assert (shares >= shaky.stability).mean() == pytest.approx(0.95, abs=0.005)


def test_limits_are_what_95_percent_of_references_stay_within() -> None:
    rng = np.random.default_rng(0)
    shares, cosines, steady = rng.random(200), rng.random(200) - 0.5, 1 - 0.01 * rng.random(200)
    references = [
        evidence(foreign_share=share, resemblance=cosine, stability=[one, 0.5])
        for share, cosine, one in zip(shares, cosines, steady, strict=True)
    ]
    found = find_limits(references, make_probe())
    assert found is not None
    assert found.noise_range == 0.5  # at 2.0 references lose their prediction half of the time
    assert found.foreign_share == pytest.approx(np.sort(shares)[189:191].mean(), abs=0.01)
    assert (shares <= found.foreign_share).mean() == pytest.approx(0.95, abs=0.005)
    assert (cosines <= found.resemblance).mean() == pytest.approx(0.95, abs=0.005)
    assert found.stability == 0.5  # 95% of them are above 0.98, but a majority of draws is survival
    assert math.isnan(found.background_share)
    assert found.references == 200


LIMITS = Limits(
    layer="conv",
    noise_range=0.5,
    stability=0.9,
    background_share=0.5,
    foreign_share=0.2,
    resemblance=-0.1,
    references=9,
)
# What each verdict asks for, and the strength that the distance to its limit gives.
ABNORMAL = {
    Verdict.DAMAGED: ({"damage": 0.999}, 0.5),
    Verdict.ISOLATED: ({"pull_to_label": 3.4}, 0.5),
    Verdict.BACKGROUND: ({"without_object": 0.75, "stays_without_object": 1.0}, 0.75),
    Verdict.FOREIGN_KERNELS: ({"faulty_kernel": 3, "without_kernel": 0.6}, 0.6),
    Verdict.UNFAMILIAR: ({"unfamiliarity": 1.2}, (1.2 / 2.2 - 0.85 / 1.85) / (1 - 0.85 / 1.85)),
    Verdict.MISLABELLED: ({"label_doubt": 0.58}, 0.5),
    Verdict.RESEMBLES_CLASS: ({"resemblance": 0.3}, 0.15),
}


def judged(figures: dict[str, object], limits: Limits | None = LIMITS) -> Misdiagnosis:
    own = {name: value for name, value in figures.items() if name in Evidence._fields}
    compared = {name: value for name, value in figures.items() if name not in Evidence._fields}
    return judge(evidence(**own), limits, make_probe(), compared)


@pytest.mark.parametrize("verdict", ABNORMAL)
def test_one_abnormal_figure_gives_its_verdict(verdict: Verdict) -> None:
    figures, strength = ABNORMAL[verdict]
    found = judged(figures)
    assert found.verdict == verdict
    assert found.strength == pytest.approx(strength)


@pytest.mark.parametrize(
    "figures",
    [
        {"damage": 0.998, "unfamiliarity": 0.85, "label_doubt": 0.15, "pull_to_label": 1.7},
        {"stays_without_object": 0.0, "without_object": 0.9, "resemblance": -0.05},
    ],
)
def test_at_its_limit_a_figure_is_usual(figures: dict[str, object]) -> None:
    assert judged(figures).verdict == Verdict.UNCLEAR


def test_what_no_damage_makes_of_an_image_is_unfamiliar() -> None:
    assert judged({"damage": 0.9999, "unfamiliarity": 2.5}).verdict == Verdict.DAMAGED
    assert judged({"damage": 0.9999, "unfamiliarity": 2.7}).verdict == Verdict.UNFAMILIAR


def test_what_no_slight_alteration_makes_of_an_image_is_unfamiliar() -> None:
    assert judged({"pull_to_label": 5.0, "unfamiliarity": 1.2}).verdict == Verdict.ISOLATED
    assert judged({"pull_to_label": 5.0, "unfamiliarity": 1.3}).verdict == Verdict.UNFAMILIAR


def test_three_of_ten_other_objects_are_at_least_the_limit() -> None:
    """In a file's float32, too, where 0.3 becomes a little more."""
    for share in (3 / 10, float(np.float32(3 / 10))):
        assert judged({"misleads_others": share}).verdict == Verdict.BACKGROUND
    assert judged({"misleads_others": 0.29}).verdict == Verdict.UNCLEAR


def test_a_background_that_misleads_is_named_unless_alterations_turn_the_image_strongly() -> None:
    misled = {"without_object": 0.75, "stays_without_object": 1.0}
    assert judged({"pull_to_label": 2.5} | misled).verdict == Verdict.BACKGROUND
    assert judged({"pull_to_label": 2.6} | misled).verdict == Verdict.ISOLATED
    assert judged({"pull_to_label": 2.5, "stays_without_object": 0.0}).verdict == Verdict.ISOLATED


def test_the_first_verdict_of_the_order_wins() -> None:
    order = list(ABNORMAL)
    for first in range(len(order)):
        figures = {key: value for verdict in order[first:] for key, value in ABNORMAL[verdict][0].items()}
        assert judged(figures).verdict == order[first]


def test_without_references_what_needs_none_is_judged_still() -> None:
    assert judged({"label_doubt": 0.6, "resemblance": 0.3}, None).verdict == Verdict.MISLABELLED
    assert judged({"resemblance": 0.3}, None).verdict == Verdict.UNCLEAR


def by_sum(images: Tensor) -> Tensor:
    """Class 1 while the sum of all pixels is positive, class 0 below."""
    total = images.sum((1, 2, 3))
    return torch.stack([-total, total], 1)


def test_with_the_object_removed_the_background_alone_decides() -> None:
    """One object of 2 of 4 pixels: with it the sum is 3 and 1, without it (2 x the background's sum) 2 and -2."""
    images = torch.tensor([[[[1.0, 1.0], [0.5, 0.5]]], [[[1.0, 1.0], [-0.5, -0.5]]], [[[1.0, 1.0], [1.0, 1.0]]]])
    mask = torch.tensor([[True, True], [False, False]])
    opened, predicted = SimpleNamespace(logits=by_sum), torch.tensor([1, 1, 1])
    found = intervene(opened, None, images, [mask, mask, None], predicted, predicted)
    assert [image["stays_without_object"] for image in found[:2]] == [1.0, 0.0]
    sure = [1 / (1 + math.exp(-2 * total)) for total in (2.0, -2.0)]
    assert [image["without_object"] for image in found[:2]] == pytest.approx(sure)
    assert math.isnan(found[2]["without_object"])
    whole, empty = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool)
    assert all(
        math.isnan(image["stays_without_object"])
        for image in intervene(opened, None, images[:2], [whole, empty], predicted[:2], predicted[:2])
    )


def lenders(pictures: Tensor, label: list[int], value: float = 4.0) -> Backgrounds:
    """Each background is of one value; the object is the pixel in a corner, of another value."""
    there = torch.zeros(len(pictures), 1, 2, 2, dtype=torch.bool)
    there[:, :, 0, 0] = True
    return Backgrounds(torch.where(there, value, pictures), there, torch.tensor(label))


def test_a_background_that_misleads_others_is_to_blame() -> None:
    """Their objects, a pixel of value -4, before three pixels of its background, of value 1 and of 2: sums -1 and 2."""
    images = torch.tensor([[[[1.0, 1.0], [-9.0, -9.0]]], [[[2.0, 2.0], [-9.0, -9.0]]]])
    mask = torch.tensor([[False, False], [True, True]])
    opened, zeros, ones = SimpleNamespace(logits=by_sum), torch.tensor([0, 0]), torch.tensor([1, 1])
    others = lenders(torch.zeros(4, 1, 2, 2), [1, 1, 1, 0], -4.0)
    misled, not_misled = intervene(opened, others, images, [mask, mask], ones, zeros)
    assert (misled["misleads_others"], not_misled["misleads_others"]) == (1.0, 0.0)
    assert (misled["stays_without_object"], misled["other_backgrounds"]) == (0.0, 0.0)
    assert judged(misled).verdict == Verdict.BACKGROUND
    (right, _) = intervene(opened, others, images, [mask, mask], zeros, zeros)
    assert math.isnan(right["misleads_others"])
    (few, _) = intervene(opened, lenders(torch.zeros(3, 1, 2, 2), [0, 0, 1]), images, [mask, mask], ones, zeros)
    assert math.isnan(few["misleads_others"])


def test_before_other_backgrounds_the_object_decides() -> None:
    """Object of sum 2 with a background of sum -1: class 1. It is class 0, right, where a background's is below -2."""
    image = torch.tensor([[[[1.0, 1.0], [-0.5, -0.5]]]])
    mask = torch.tensor([[True, True], [False, False]])
    pictures = torch.tensor([-2.0, -2.0, -0.5, -9.0, 9.0])[:, None, None, None].expand(-1, 1, 2, 2)
    backgrounds = lenders(pictures, [0, 0, 0, 1, 1])
    opened, one, zero = SimpleNamespace(logits=by_sum), torch.tensor([1]), torch.tensor([0])
    (wrong,) = intervene(opened, backgrounds, image, [mask], zero, one)
    assert wrong["other_backgrounds"] == pytest.approx(2 / 3)  # those of class 1, the predicted one, do not count
    assert judged(wrong).verdict == Verdict.BACKGROUND
    (right,) = intervene(opened, backgrounds, image, [mask], one, one)
    assert math.isnan(right["other_backgrounds"])
    (few,) = intervene(opened, lenders(pictures[2:4], [0, 1]), image, [mask], zero, one)
    assert math.isnan(few["other_backgrounds"])


def test_before_backgrounds_of_its_class_an_image_turns_right() -> None:
    """Object of sum 2, class 0 where it and the background's sum 2b are below 0; class 2 lends one background alone."""
    images = torch.tensor([[[[1.0, 1.0], [-0.5, -0.5]]]]).repeat(3, 1, 1, 1)
    mask = torch.tensor([[True, True], [False, False]])

    def of(*values: float) -> Tensor:
        return torch.tensor(values)[:, None, None, None].expand(-1, 1, 2, 2)

    opened = SimpleNamespace(logits=by_sum)
    lent = lenders(of(9.0, 9.0), [1, 1])._replace(of_class={0: of(-2.0, -2.0, -3.0, -4.0, -0.5), 2: of(-9.0)})
    labels, predicted = torch.tensor([0, 1, 2]), torch.tensor([1, 1, 1])
    wrong, right, alone = intervene(opened, lent, images, [mask] * 3, labels, predicted)
    assert wrong["own_backgrounds"] == 0.8
    assert math.isnan(right["own_backgrounds"])
    assert math.isnan(alone["own_backgrounds"])
    assert judged(wrong).verdict == Verdict.BACKGROUND
    assert judged(wrong | {"own_backgrounds": 0.75}).verdict == Verdict.UNCLEAR


def test_an_image_whose_cause_is_settled_is_asked_nothing_more() -> None:
    """Three objects of sum 2: one stays without it, one turns before two of three backgrounds, one before none."""
    images = torch.tensor([[[[1.0, 1.0], [b, b]]] for b in (0.5, -0.5, -0.5)])
    images[2, :, 0] = 9.0
    mask = torch.tensor([[True, True], [False, False]])
    backgrounds = lenders(torch.tensor([-2.0, -2.0, -0.5])[:, None, None, None].expand(-1, 1, 2, 2), [0, 0, 0])
    asked: list[int] = []

    def logits(pixels: Tensor) -> Tensor:
        asked.append(len(pixels))
        return by_sum(pixels)

    opened, zeros, ones = SimpleNamespace(logits=logits), torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=int)
    stays, turns, neither = intervene(opened, backgrounds, images, [mask] * 3, zeros, ones)
    assert asked == [3, 2, 2, 2, 1, 1, 1]
    assert (stays["stays_without_object"], turns["other_backgrounds"]) == (1.0, pytest.approx(2 / 3))
    assert math.isnan(stays["other_backgrounds"])
    assert math.isnan(turns["misleads_others"])
    assert (neither["other_backgrounds"], neither["misleads_others"]) == (0.0, 1.0)


def test_right_predictions_that_stay_without_their_object_are_counted_and_excuse_nothing() -> None:
    references = [evidence(without_object=0.9, stays_without_object=float(number < 3)) for number in range(4)]
    limits = find_limits([*references, evidence()], make_probe())
    assert limits is not None
    assert limits.stays_without_object == 0.75
    assert judged({"without_object": 0.6, "stays_without_object": 1.0}, limits).verdict == "background"
    turned = judged({"without_object": 0.6, "stays_without_object": 0.0}, limits)
    assert turned.verdict == "unclear"


@pytest.mark.parametrize("limits", [LIMITS, None])
def test_nothing_abnormal_or_nothing_to_compare_with_is_unclear(limits: Limits | None) -> None:
    found = judged({"resemblance": -0.05}, limits)
    assert (found.verdict, found.strength) == (Verdict.UNCLEAR, 0.0)
    assert find_limits([], make_probe()) is None
