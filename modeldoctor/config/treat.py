"""Every key of a treatment's YAML file: types, ranges, defaults and documentation in one place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    JsonValue,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from modeldoctor.config.arms import ARMS, AUTOMATIC, FOR_BACKGROUNDS, PLAIN, own_control
from modeldoctor.config.diagnose import Interpolation, Model, ResizeMode

Weight = Annotated[float, Field(ge=0)] | Literal["auto"]


class Metric(StrEnum):
    """One number for how good a network is on the held-out images; for several seeds the mean over them."""

    ACCURACY = "accuracy"
    """Share of right images."""
    WORST_CLASS = "worst_class"
    """The lowest accuracy of any class."""
    WORST_GROUP = "worst_group"
    """The lowest accuracy of any group."""
    WORST_CLASS_GROUP = "worst_class_group"
    """The lowest accuracy of any class within any group."""
    WEIGHTED = "weighted"
    """The groups' accuracies weighted by their shares of the training images (the convention of Waterbirds)."""


LoggerName = Literal["tensorboard", "mlflow", "wandb"]


def _known(arm: str) -> str:
    if arm not in ARMS:
        near = get_close_matches(arm, ARMS, n=1, cutoff=0.0)[0]
        raise ValueError(f"there is no arm {arm!r} (nearest: {near}); known: {', '.join(ARMS)}")
    return arm


ArmName = Annotated[str, AfterValidator(_known)]


_SECONDS = {"h": 3600, "m": 60, "s": 1}


def _seconds(value: Any) -> Any:
    """`1h30m` as seconds; a number is seconds already."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(r"(\d+(\.\d+)?[hms])+", value):
        raise ValueError(f"{value!r} is no time such as 90s, 30m or 1h30m")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(r"([\d.]+)([hms])", value))


class NetworkConfig(Model):
    """What is built for the checkpoint, where the file itself does not say it."""

    arch: str | None = None
    """resnet50, timm/resnet50 or torchvision/resnet50; or CODE.py:FUNCTION; null: as recorded in the checkpoint."""
    download: bool = False
    """Fetch the weights, where the checkpoint is a name and they are not in the local cache."""
    num_classes: int | None = Field(default=None, ge=1)
    """Logits; null: read off the weights."""
    channels: int | None = Field(default=None, ge=1)
    """Input channels; null: read off the weights."""
    head: str | None = None
    """Layers of a head in the place of the network's own: Linear,ReLU,Linear; null: one linear layer is found."""
    input_size: int | None = Field(default=None, ge=1)
    """Pixels; null: as recorded in the file, else the network's own."""
    mean: tuple[float, ...] | None = None
    """One value, or one per channel, for pixels in [0, 1]; null: as recorded in the file, else the library's."""
    std: tuple[float, ...] | None = None
    """As mean."""
    interpolation: Interpolation | None = None
    """nearest, bilinear or bicubic; null: as recorded in the file, else the library's."""
    crop_pct: float | None = Field(default=None, gt=0, le=1)
    """Crop size / resize size, as in timm; null: as recorded in the file, else the library's."""
    resize_mode: ResizeMode | None = None
    """shortest, squash or pad; null: as recorded in the file, else the library's."""
    class_order: str | None = None
    """text, number, names separated by commas, or a file of them: the order of the logits; null: as recorded."""
    model_options: dict[str, Any] = Field(default={})
    """Further arguments for the network's constructor, such as output_stride: 8; for what no weight shows."""


class DataConfig(Model):
    """The images of a treatment."""

    path: str
    """An image folder, a CSV of path and label, torchvision:NAME, or timm's names."""
    root: Path | None = None
    """Where a named data set, or a CSV's images, lie."""
    download: bool = False
    """Let torchvision or timm download the data set."""
    masks: Path | None = None
    """Object masks of training images, in any annotation format; needed by the space constraint."""
    groups: Path | None = None
    """A CSV with the column `path` and one that names each image's group."""
    group_column: str = "group"
    """The groups' column."""


_BY_MASKS: dict[str, JsonValue] = {"printed": None}
"""A default that depends on whether there are masks: `modeldoctor config` prints null for it."""


class ChannelConfig(Model):
    """The channel constraint, Eq. 5."""

    weight: Weight = Field(default=0.0, json_schema_extra=_BY_MASKS)
    """α >= 0, in units of its value at the start; 0 leaves it out, auto: a pilot picks; null: 0, without masks 0.1."""
    layers: str = "last"
    """As in a diagnosis."""
    attribution: Literal["gradient", "gradient_x_activation"] = "gradient"
    """|∂y/∂m| as in the paper, or |∂y/∂m · m|."""
    exclude_background: bool = False
    """Leave a kernel out of a class's allowed ones if most of its |∂y/∂m · m| lies outside the objects; needs masks."""


class SpaceConfig(Model):
    """The space constraint, Eq. 6; it needs object masks."""

    weight: Weight = Field(default=1.0, json_schema_extra=_BY_MASKS)
    """β >= 0, in units of its value at the start; 0 leaves it out, auto: a pilot picks; null: 1, without masks 0."""
    layers: str = "features"
    """As in a diagnosis; `features` are the maps that the head pools, `last` is the paper's last convolution."""
    attribution: Literal["gradient", "gradient_x_activation"] = "gradient_x_activation"
    """|∂y/∂m| as in the paper, or the background's share of |∂y/∂m · m|."""
    expand_px: float = Field(default=8, ge=0)
    """Pixels at 224 px by which the object is grown (the paper: 30); scaled to the network's input."""
    keep: float = Field(default=0.0, ge=0)
    """λ >= 0, of a term that keeps map and prediction near the original's on annotated images that it gets right by
    evidence on the object; a second copy of the network does that. 0 leaves it out."""
    annotated_per_class: int = Field(default=20, ge=1)
    """Annotated training images per class that are used: wrong with high confidence first, then right with low."""
    annotated_share: float = Field(default=0.25, ge=0, le=1)
    """Share of each batch that is drawn from the annotated images, by `treat` and `hard-examples`."""
    propagated_per_class: int = Field(default=0, ge=0)
    """Further training images per class that get a mask found from the annotated ones, if that works."""
    most_repeats: int = Field(default=30, ge=1)
    """How often this share may hold one image per epoch, at most; of few images the share is smaller instead."""


class AugmentationConfig(Model):
    """How training pictures are changed, the same in every arm; a mask moves with its picture."""

    shift: float = Field(default=0.04, ge=0, le=0.5)
    """Random translation, as a share of the edge; edges are repeated."""
    flip: bool = True
    """Mirror half of the pictures."""
    scale: float = Field(default=1.0, gt=0, le=1)
    """Least share of a picture's area that a random crop keeps; 1 crops as in evaluation."""
    color_jitter: float = Field(default=0.0, ge=0, le=1)
    """Range by which brightness, contrast and saturation change."""
    erase: float = Field(default=0.0, ge=0, le=1)
    """Share of pictures of which a random rectangle is erased."""


class TrainingConfig(Model):
    """Fine-tuning, the same in every arm. null: what the checkpoint says of its own training, else the value named."""

    epochs: int = Field(default=10, ge=1)
    """Passes over the training split; validation chooses among them."""
    batch_size: int | None = Field(default=None, ge=2)
    """Images of which the gradient is taken at once; else 64."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients make one step."""
    optimizer: str | None = None
    """A name of timm's optimizer factory; else sgd."""
    learning_rate: float | None = Field(default=None, gt=0)
    """The highest of the schedule; else 0.003."""
    schedule: Literal["cosine", "tanh", "poly", "none"] = "cosine"
    """A name of timm's scheduler factory, stepped with every update; none keeps the learning rate."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs in which the learning rate rises from nothing."""
    weight_decay: float | None = Field(default=None, ge=0)
    """As the optimizer defines it; else 0.0005."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """For optimizers that have one; else 0.9."""
    label_smoothing: float | None = Field(default=None, ge=0, lt=1)
    """Share of the label's probability that goes to the other classes; else 0."""
    mixup: float = Field(default=0.0, ge=0)
    """Beta distribution's parameter of mixup among images without a constraint; 0 mixes none."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of an average of the weights, which is then what validation judges and the arm returns; 0 keeps none."""
    amp: Literal["none", "bfloat16", "float16"] = "none"
    """Type of the forward pass where autocast reduces it, for GPUs; constraints are always in float32."""
    batch_norm: Literal["auto", "batch", "running"] = "auto"
    """BatchNorm normalises by each `batch`'s statistics, which move the running ones, or by the `running` ones, which
    then stay; auto: running where, before training, each batch's make the network worse on its training images."""
    clip_norm: float = Field(default=5.0, gt=0)
    """Largest norm of the gradient in the weights."""
    augmentation: AugmentationConfig = AugmentationConfig()


class PilotConfig(Model):
    """How `weight: auto` is picked: a short run for each rung, judged on validation."""

    ladder: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.3, 1.0, 3.0, 10.0), min_length=1)
    """Weights to try."""
    epochs: int = Field(default=3, ge=1)
    """Passes over the training split for each."""


class RoundConfig(Model):
    """A round of successive halving: remedies are trained under the first seed, and the best on validation go on."""

    epochs: int = Field(ge=1)
    """Passes over the training split, those of earlier rounds included."""
    remedies: int = Field(ge=1)
    """How many go on."""


class TreatConfig(Model):
    """A treatment and its trial."""

    _automatic: bool = PrivateAttr(default=False)
    checkpoint: Path
    """What is treated: a file, a folder, or a name as in diagnose; the treated one comes out in the same container."""
    network: NetworkConfig = NetworkConfig()
    data: DataConfig
    diagnosis: Path | None = None
    """A diagnosis of this checkpoint with the layers that are constrained; null: made in the output folder."""
    output: Path = Path("treatment")
    """The run directory."""
    channel: ChannelConfig = ChannelConfig()
    space: SpaceConfig = SpaceConfig()
    noise_draws: int = Field(default=0, ge=0, le=100)
    """J of Eq. 5 and 6, drawn anew in every step; 0 constrains without noise, which did as well. The paper's is 10."""
    delta: float = Field(default=0.1, gt=0)
    """Noise range δ, in units of each layer's activation standard deviation."""
    training: TrainingConfig = TrainingConfig()
    pilot: PilotConfig = PilotConfig()
    arms: tuple[ArmName, ...] = Field(default=(), validate_default=True)
    """What is compared: remedies, each with its own control, and `continue`; [] takes `treat` with its controls, `auto`
    the remedies that the diagnosis prescribes and the data allow; validation chooses among them."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Field(default=(0, 1, 2), min_length=1)
    """One run of every arm each."""
    budget: Annotated[float, BeforeValidator(_seconds), Field(gt=0)] | None = None
    """Time for the trial, without the diagnosis, e.g. 90s, 30m or 1h30m; null: as long as it takes."""
    rounds: tuple[RoundConfig, ...] | None = None
    """Which remedies the budget stops: after so many `epochs` under the first seed, the best so many `remedies` on
    validation go on; null: planned from `budget` by measured times, and written into the run's config.yaml."""
    metric: Metric = Metric.ACCURACY
    """What validation chooses by and the outcome is about; the groups' metrics need data.groups."""
    expect_accuracy: float | None = Field(default=None, ge=0, le=1)
    """The share of right images that your own evaluation gave, of `val` (without one: of all images): the command ends
    with 3 before any training where the accuracy is farther away than chance allows. Changes no figure."""
    log: LoggerName | None = None
    """tensorboard, mlflow or wandb: every epoch is logged there, too; each is an extra. Changes no figure."""
    workers: int | None = Field(default=None, ge=0)
    """Processes that read images; by default none beside a CPU, up to 8 beside a GPU. Changes no figure."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1` ..."""
    memory: ByteSize | None = Field(default=None, ge=1024**2)
    """What one process may take for a step, e.g. 4GiB; null: a quarter of the machine's memory, half of a GPU's."""

    @model_validator(mode="before")
    @classmethod
    def _weights_by_masks(cls, values: Any) -> Any:
        """Weights that were left open. Where nothing says where the objects are, the channel constraint is left."""
        data = values.get("data") if isinstance(values, dict) else None
        if not isinstance(data, dict):
            return values
        weights = {"channel": 0.1, "space": 0.0} if data.get("masks") is None else {"channel": 0.0, "space": 1.0}
        for name, weight in weights.items():
            given = values.get(name, {})
            if isinstance(given, dict) and given.get("weight") is None:
                values = {**values, name: {**given, "weight": weight}}
        return values

    @model_validator(mode="wrap")
    @classmethod
    def _remember_auto(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        config = validate(values)
        config._automatic = isinstance(values, dict) and values.get("arms") in _AUTO
        return config

    @field_validator("arms", mode="before")
    @classmethod
    def _arms_that_the_data_allow(cls, arms: Any, info: ValidationInfo) -> Any:
        if arms not in _AUTO or not {"data", "channel", "space"} <= info.data.keys():
            return arms
        constrained = info.data["space"].weight or info.data["channel"].weight
        by_masks = FOR_BACKGROUNDS if constrained else ("swap-background",)
        remedies = (*(by_masks if info.data["data"].masks is not None else ()), *AUTOMATIC)
        return _with_controls(remedies, oversampled=_oversampled(info.data["channel"], info.data["space"]))

    @field_validator("arms")
    @classmethod
    def _usual_arms(cls, arms: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if arms or not {"channel", "space"} <= info.data.keys():
            return arms
        return _with_controls(("treat",), oversampled=_oversampled(info.data["channel"], info.data["space"]))

    @property
    def automatic(self) -> bool:
        """Whether the arms are still what `auto` takes before the diagnosis is known."""
        return self._automatic

    def with_remedies(self, remedies: Sequence[str]) -> TreatConfig:
        """The same with these remedies and the controls that they need: what `auto` takes once the diagnosis is known.

        Raises:
            ValidationError: the rounds do not fit them.
        """
        arms = _with_controls(remedies, oversampled=self.oversampled)
        return TreatConfig.model_validate(self.model_dump() | {"arms": arms})

    @property
    def oversampled(self) -> bool:
        """Whether the constraints draw a share of each batch from annotated images."""
        return _oversampled(self.channel, self.space)

    @property
    def controls(self) -> dict[str, str]:
        """The remedies among the arms that are proven, each with its own control; one that is a control is not."""
        controls = {arm: own_control(arm, oversampled=self.oversampled) for arm in self.arms}
        serving = set(controls.values())
        return {arm: control for arm, control in controls.items() if control is not None and arm not in serving}

    @model_validator(mode="after")
    def _fair(self) -> TreatConfig:
        missing = {PLAIN, *self.controls.values()} - set(self.arms)
        if missing or not self.controls:
            raise ValueError(
                f"arms must hold {' and '.join(sorted(missing)) or 'a remedy'}: without "
                f"{'a control' if missing else 'a remedy'} there is no outcome"
            )
        for name, values in (("arms", self.arms), ("seeds", self.seeds)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names one of them twice: {', '.join(map(str, values))}")
        return self

    @model_validator(mode="after")
    def _halving(self) -> TreatConfig:
        rounds, most = self.rounds or (), self.training.epochs
        epochs = [0, *(this.epochs for this in rounds), most]
        remedies = [len(self.controls), *(this.remedies for this in rounds)]
        if rounds and (sorted(set(epochs)) != epochs or sorted(set(remedies), reverse=True) != remedies):
            raise ValueError(
                f"rounds must have ever more epochs, fewer than {most}, and ever fewer of the {remedies[0]} remedies"
            )
        return self

    @model_validator(mode="after")
    def _possible(self) -> TreatConfig:
        if "treat" in self.arms and not (self.channel.weight or self.space.weight):
            raise ValueError("both weights are 0: there is nothing to treat with")
        needing = [arm for arm in self.arms if "masks" in ARMS[arm].needs]
        if needing and self.data.masks is None:
            raise ValueError(f"the arm {needing[0]} needs data.masks")
        if self.space.weight and self.data.masks is None:
            raise ValueError("the space constraint needs data.masks; or set space.weight to 0")
        if self.space.keep and not self.space.weight:
            raise ValueError("space.keep belongs to the space constraint, whose weight is 0")
        if self.channel.exclude_background and self.data.masks is None:
            raise ValueError("channel.exclude_background needs data.masks")
        if self.training.mixup and self.channel.weight:
            raise ValueError("the channel constraint applies to every image, so mixup has none to mix: set one to 0")
        if self.metric not in (Metric.ACCURACY, Metric.WORST_CLASS) and self.data.groups is None:
            raise ValueError(f"metric {self.metric} needs data.groups")
        return self


_AUTO = ("auto", ["auto"], ("auto",))


def _with_controls(remedies: Sequence[str], *, oversampled: bool) -> tuple[str, ...]:
    controls = [own_control(arm, oversampled=oversampled) or PLAIN for arm in remedies]
    return tuple(dict.fromkeys((*remedies, *controls, PLAIN)))


def _oversampled(channel: ChannelConfig, space: SpaceConfig) -> bool:
    return bool(space.weight) or channel.exclude_background
