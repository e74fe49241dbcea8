"""Where the epochs of a trial go beside `history.csv`: one small hook for each service, whose package is optional."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

from modeldoctor.config.treat import LoggerName, TreatConfig
from modeldoctor.errors import ConfigError
from modeldoctor.treatment.arm_state import Epoch


class Logger(Protocol):
    """Is told of one run: an arm under a seed."""

    def log(self, figures: dict[str, float], epoch: int) -> None:
        """The figures of an epoch that has ended."""

    def close(self) -> None:
        """The run is over."""


class Service(NamedTuple):
    """How a service is reached.

    Attributes:
        package: what must be importable.
        opened: makes the logger of a run from the configuration and the run's name.
    """

    package: str
    opened: Callable[[TreatConfig, str], Logger]


class TensorBoardLogger:
    """Events in a folder of the run directory."""

    def __init__(self, config: TreatConfig, run: str):
        self._folder = config.output / "tensorboard" / run

    def log(self, figures: dict[str, float], epoch: int) -> None:
        """See `Logger.log`."""
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self._folder, purge_step=epoch) as writer:
            for name, value in figures.items():
                writer.add_scalar(name, value, epoch)

    def close(self) -> None:
        """See `Logger.close`."""


class MlflowLogger:
    """A run of the experiment `modeldoctor` (or MLFLOW_EXPERIMENT_NAME); MLFLOW_TRACKING_URI says where."""

    def __init__(self, config: TreatConfig, run: str):
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "modeldoctor")
        known = self._client.get_experiment_by_name(name)
        experiment = known.experiment_id if known else self._client.create_experiment(name)
        tags = {"checkpoint": str(config.checkpoint), "output": str(config.output)}
        self._run = self._client.create_run(experiment, run_name=_title(config, run), tags=tags).info.run_id

    def log(self, figures: dict[str, float], epoch: int) -> None:
        """See `Logger.log`."""
        for name, value in figures.items():
            self._client.log_metric(self._run, name, value, step=epoch)

    def close(self) -> None:
        """See `Logger.close`."""
        self._client.set_terminated(self._run)


class WandbLogger:
    """A run of the project `modeldoctor` (or WANDB_PROJECT); WANDB_MODE says whether online."""

    def __init__(self, config: TreatConfig, run: str):
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "modeldoctor"), name=_title(config, run), group=config.output.name,
            dir=config.output, config=config.model_dump(mode="json"), reinit="create_new",
        )  # fmt: skip

    def log(self, figures: dict[str, float], epoch: int) -> None:
        """See `Logger.log`."""
        self._run.log(figures, step=epoch)

    def close(self) -> None:
        """See `Logger.close`."""
        self._run.finish()


SERVICES: dict[LoggerName, Service] = {
    "tensorboard": Service("tensorboard", TensorBoardLogger),
    "mlflow": Service("mlflow", MlflowLogger),
    "wandb": Service("wandb", WandbLogger),
}


def check_logger(config: TreatConfig) -> None:
    """Refuse a service whose package is not there.

    Raises:
        ConfigError: names the extra that installs it.
    """
    if config.log is None:
        return
    package = SERVICES[config.log].package
    if find_spec(package) is None:
        raise ConfigError(
            f"{package} is not installed",
            where=f"log: {config.log}",
            expected=f"the optional packages of the extra `{config.log}`",
            hint=f"pip install 'modeldoctor-vision[{config.log}]', or leave --log out",
        )


def figures_of(epoch: Epoch) -> dict[str, float]:
    """The figures of an epoch that are known."""
    return {name: value for name, value in asdict(epoch).items() if isinstance(value, float) and not math.isnan(value)}


def _title(config: TreatConfig, run: str) -> str:
    return f"{config.output.name}/{run}"
