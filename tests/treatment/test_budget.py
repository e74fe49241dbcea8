"""A budget: plans against sums by hand, and trials whose times are made up."""

from __future__ import annotations

import csv
import json
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from modeldoctor.config.diagnose import DiagnoseConfig
from modeldoctor.config.treat import RoundConfig, TreatConfig
from modeldoctor.config.treat_file import load_treat_config
from modeldoctor.demo import DemoPlan, prepare_demo
from modeldoctor.demo.drawing import ImageSetPlan
from modeldoctor.diagnosis import diagnose
from modeldoctor.errors import InterruptedRunError, ModelDoctorWarning, UsageError
from modeldoctor.results.diagnosis import Diagnosis
from modeldoctor.results.trial import Trial
from modeldoctor.treatment import treat
from modeldoctor.treatment.arms import Arms
from modeldoctor.treatment.budget import Times, arms_with, most_seconds, plan_rounds
from modeldoctor.zoo import Classifier, load_model

ALL = ("treat", "swap-background", "inferred-groups", "last-layer", "hard-examples", "continue")
TIMES = Times(
    epoch={"treat": 4, "swap-background": 3, "inferred-groups": 2, "last-layer": 1, "hard-examples": 2, "continue": 2},
    test=5,
)


def config(**changes: Any) -> TreatConfig:
    usual = {
        "checkpoint": "a.pt", "data": {"path": "b", "masks": "c"}, "arms": ALL, "seeds": (0, 1, 2),
        "training": {"epochs": 8}, "budget": 1e9,
    }  # fmt: skip
    return TreatConfig(**(usual | changes))


def rounds(*pairs: tuple[int, int]) -> tuple[RoundConfig, ...]:
    return tuple(RoundConfig(epochs=epochs, remedies=remedies) for epochs, remedies in pairs)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400), (20, 20), ("2m5s", 125)]
)
def test_a_time_is_read_as_people_write_it(text: Any, seconds: float) -> None:
    assert config(budget=text).budget == seconds
    assert TreatConfig(**config(budget=text).model_dump(mode="json")) == config(budget=seconds)


@pytest.mark.parametrize("text", ["30", "half an hour", "m", "", "-3m", 0, -1])
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="budget"):
        config(budget=text)


@pytest.mark.parametrize("pairs", [((2, 2), (2, 1)), ((8, 2),), ((2, 4),), ((2, 2), (4, 2))])
def test_rounds_that_stop_nothing_are_refused(pairs: Any) -> None:
    with pytest.raises(ValueError, match="rounds must have ever more epochs, fewer than 8, and ever fewer of the 4"):
        config(rounds=rounds(*pairs))


def test_a_remedy_keeps_its_controls_and_no_others() -> None:
    assert arms_with(("last-layer",), config()) == ("last-layer", "continue")
    assert arms_with(("treat",), config()) == ("treat", "hard-examples", "continue")
    more = config(arms=(*ALL, "random-mask"))
    assert arms_with(("treat",), more) == ("treat", "hard-examples", "continue", "random-mask")
    assert arms_with(("swap-background",), more) == ("swap-background", "hard-examples", "continue")
    given = config(arms=("erase-channels", "last-layer", "balanced", "continue"), data={"path": "b"})
    assert arms_with(("erase-channels",), given) == ("erase-channels", "last-layer", "continue")


def test_the_most_that_a_trial_takes_is_the_sum_by_hand() -> None:
    # 14 seconds an epoch of all arms, 8 epochs, 3 seeds; the test split is read by 18 runs and the original.
    assert most_seconds(config(), (), TIMES) == 14 * 24 + 19 * 5
    # One epoch of 4 + 3 + 2 + 1; then at the most treat and swap-background with both controls, an epoch done already.
    assert most_seconds(config(), rounds((1, 2)), TIMES) == 10 + (4 + 3 + 2 + 2) * 24 - 7 + 13 * 5
    # A further epoch of the dearest two; then treat with its controls, of which two epochs are done.
    assert most_seconds(config(), rounds((1, 2), (2, 1)), TIMES) == 10 + 7 + (4 + 2 + 2) * 24 - 2 * 4 + 10 * 5
    picked = config(space={"weight": "auto"}, pilot={"ladder": (1, 3), "epochs": 5})
    assert most_seconds(picked, (), TIMES) == 14 * 24 + 19 * 5 + 2 * 5 * 4


@pytest.mark.parametrize(
    ("seconds", "plan"),
    [
        (431, ()),
        (430, rounds((7, 2))),  # 7 rounds of 10 less 7 of the two that go on: 70 + 264 - 49 + 65
        (344, rounds((5, 2))),
        (332, rounds((1, 2))),
        (331, rounds((3, 2), (6, 1))),  # 30 + 3 * 7 + 192 - 24 + 50 = 269
        (251, rounds((1, 2), (2, 1))),
    ],
)
def test_the_plan_is_the_one_that_stops_least_in_the_time(seconds: float, plan: tuple[RoundConfig, ...]) -> None:
    given = config(budget=7 + seconds / 0.9 + 1e-6)
    assert plan_rounds(given, TIMES, spent=7) == plan


def test_a_budget_that_is_too_small_is_refused_with_what_would_do() -> None:
    with pytest.raises(UsageError, match=r"a budget of 4m") as caught:
        plan_rounds(config(budget="4m"), TIMES)
    assert "at least 5m" in str(caught.value)  # 251 / 0.9 = 279 seconds
    assert "one of 4 remedies" in str(caught.value)


# --- trials ------------------------------------------------------------------------------------------------------

ARMS = ("balanced", "inferred-groups", "last-layer", "continue")


class Case:
    def __init__(self, folder: Path):
        plan = DemoPlan(images=ImageSetPlan(edge=48, train=12, val=16, test=16), input_edge=48, epochs=2)
        prepare_demo(folder, plan=plan)
        self.folder, self.network = folder, load_model(folder / "checkpoint.pt")
        settings = DiagnoseConfig(
            scan="all", layers="features", min_confidence=0.1, samples_per_class=8, max_explained=0, noise_draws=1
        )
        self.diagnosis: Diagnosis = diagnose(self.network, folder / "data", config=settings)

    def config(self, output: Path, **changes: Any) -> TreatConfig:
        usual = {
            "checkpoint": self.folder / "checkpoint.pt", "data": {"path": str(self.folder / "data")}, "output": output,
            "arms": ARMS, "seeds": (0, 1), "training": {"epochs": 3, "batch_size": 16, "learning_rate": 0.01},
        }  # fmt: skip
        return TreatConfig(**(usual | changes))

    def treated(self, settings: TreatConfig, **options: Any) -> Trial:
        network: Classifier = self.network
        return treat(settings, network, self.diagnosis, **options)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModelDoctorWarning)  # so few images cannot be predicted well
        return Case(tmp_path_factory.mktemp("budget") / "demo")


def figures(trial: Trial) -> dict[str, Any]:
    """Everything but the seconds, by arm."""
    arms = {arm["arm"]: arm for arm in trial.to_json()["arms"]}
    for arm in arms.values():
        del arm["cost"]
    return arms


def weights(output: Path, name: str) -> list[torch.Tensor]:
    return list(torch.load(output / "arms" / name, weights_only=True)["network"].values())


@pytest.fixture(scope="module")
def halved(case: Case, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Trial]:
    """A trial that its budget halves twice: 3 seconds of rounds at the first, 2 at the second, 12 - 2, and the test."""
    output = tmp_path_factory.mktemp("halved") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Arms, "measure", lambda *_: Times(epoch=dict.fromkeys(ARMS, 1000.0), test=0.0))
        return output, case.treated(case.config(output, budget=(3 + 2 + 10) * 1000 / 0.9 + 100))


def test_the_weakest_on_validation_are_stopped(halved: tuple[Path, Trial]) -> None:
    output, trial = halved
    assert load_treat_config(output / "config.yaml").rounds == rounds((1, 2), (2, 1))
    with (output / "history.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["seed"] == "0"]
    done = {name: [float(row["val_score"]) for row in rows if row["arm"] == name] for name in ARMS}
    first = sorted(ARMS[:3], key=lambda name: -done[name][0])
    second = sorted(first[:2], key=lambda name: -max(done[name][:2]))
    assert [len(done[name]) for name in (first[2], second[1], second[0])] == [1, 2, 3]
    assert set(figures(trial)) == {"original", second[0], "continue"}
    assert trial.provenance["halving"]["stopped"] == [
        {"arm": first[2], "epochs": 1, "score": done[first[2]][0], "least": done[first[1]][0]},
        {"arm": second[1], "epochs": 2, "score": max(done[second[1]][:2]), "least": max(done[second[0]][:2])},
    ]
    assert any(f"{first[2]} after 1 epoch" in said for said in trial.remarks)


def test_who_goes_on_ends_as_in_a_trial_of_its_own(case: Case, halved: tuple[Path, Trial], tmp_path: Path) -> None:
    output, trial = halved
    (survivor,) = set(figures(trial)) - {"original", "continue"}
    alone = case.treated(case.config(tmp_path / "run", arms=(survivor, "continue")))
    assert figures(alone) == figures(trial)
    for name in (f"{survivor}-0.pt", f"{survivor}-1.pt", "continue-1.pt"):
        pairs = zip(weights(output, name), weights(tmp_path / "run", name), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)


def test_the_stored_plan_repeats_the_trial_whatever_the_clock_says(
    case: Case, halved: tuple[Path, Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(Arms, "measure")
    again = load_treat_config(halved[0] / "config.yaml", output=tmp_path / "run")
    assert figures(case.treated(again)) == figures(halved[1])


@pytest.mark.parametrize("after", [2, 9])
def test_an_interrupted_trial_keeps_its_plan(
    case: Case, halved: tuple[Path, Trial], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(Arms, "measure", lambda *_: Times(epoch=dict.fromkeys(ARMS, 1000.0), test=0.0))
    settings, steps = case.config(tmp_path / "run", budget=(3 + 2 + 10) * 1000 / 0.9 + 100), 0

    def stop_once(stage: str, done: int, total: int | None) -> None:
        nonlocal steps
        steps += 1
        if steps == after:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        case.treated(settings, progress=stop_once)
    monkeypatch.delattr(Arms, "measure")
    trial = case.treated(settings.model_copy(update={"budget": 1.0}), resume=True)
    assert figures(trial) == figures(halved[1])
    assert (tmp_path / "run" / "history.csv").read_text() == (halved[0] / "history.csv").read_text()


def test_what_is_too_small_is_refused_before_training_and_goes_on_with_more(case: Case, tmp_path: Path) -> None:
    """Measured, not made up."""
    before = {name: tensor.clone() for name, tensor in case.network.module.state_dict().items()}
    settings = case.config(tmp_path / "run", seeds=(0,), training={"epochs": 1, "batch_size": 16}, budget="0.1s")
    with pytest.raises(UsageError, match="a budget of 1s"):
        case.treated(settings)
    assert all(torch.equal(tensor, before[name]) for name, tensor in case.network.module.state_dict().items())
    assert not (tmp_path / "run" / "history.csv").exists()
    trial = case.treated(settings.model_copy(update={"budget": 1e6}), resume=True)
    assert set(figures(trial)) == {"original", *ARMS}
    assert trial.provenance["halving"]["stopped"] == []
    assert set(trial.provenance["halving"]["seconds_per_epoch"]) == set(ARMS)
    assert json.loads((tmp_path / "run" / "trial.json").read_text())["provenance"]["config"]["rounds"] == []
