"""Every option of every command as one pydantic model: types, ranges, defaults and documentation in one place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modeldoctor.errors import ConfigError

Interpolation = Literal["nearest", "bilinear", "bicubic"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Preprocessing(_Model):
    """How an image becomes the network's input: resize, centre crop, scale to [0, 1], normalise."""

    input_size: tuple[int, int, int]
    """Channels, height, width."""
    mean: tuple[float, ...]
    """One value a channel, for pixels in [0, 1]."""
    std: tuple[float, ...]
    """One value a channel, for pixels in [0, 1]."""
    interpolation: Interpolation = "bicubic"
    crop_pct: float = 1.0
    """Crop size / resize size, as in timm; 1.0 keeps the whole short side."""

    @model_validator(mode="after")
    def _one_value_a_channel(self) -> Preprocessing:
        channels = self.input_size[0]
        if min(self.input_size) < 1:
            raise ValueError(f"input_size must be positive, not {self.input_size}")
        if not len(self.mean) == len(self.std) == channels:
            raise ValueError(f"mean and std need {channels} values, not {len(self.mean)} and {len(self.std)}")
        if min(self.std) <= 0 or not 0 < self.crop_pct <= 1:
            raise ValueError("std must be positive and crop_pct in (0, 1]")
        return self


class DiagnoseConfig(_Model):
    """What a diagnosis measures, and how."""

    layers: str = "last:3"
    """`last`, `last:N`, `stages` (the last layer of each map size), `all`, or names and globs separated by commas."""
    noise_draws: int = Field(default=10, ge=0, le=1000)
    """J of Eq. 4; 0 measures without noise (Eq. 3)."""
    delta: float = Field(default=0.1, gt=0)
    """Noise range δ."""
    delta_unit: Literal["std", "absolute"] = "std"
    """δ in units of each layer's activation standard deviation, or absolute as in the paper."""
    samples_per_class: int = Field(default=100, ge=1)
    """T: images a class that go into the class correlation."""
    min_confidence: float = Field(default=0.9, ge=0, le=1)
    """Only images predicted right with at least this softmax go into the class correlation."""
    threshold: float = Field(default=0.2, ge=0, le=1)
    """v: a kernel is correlated with a class from this share of the class's range on."""
    noise_ranges: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.1, 0.2, 0.5, 1.0, 2.0), min_length=1)
    """Ascending noise ranges at which an image's stability is measured, in units of each layer's standard deviation."""
    max_explained: int = Field(default=1000, ge=0)
    """Wrong images to explain: all up to this number, else a random choice under the seed."""
    split: str | None = None
    """The split whose right images make the class correlation; `train` by default, else the only one."""
    examine: str | None = None
    """The split whose wrong images are explained; `val` by default, else the split of the class correlation."""
    seed: int = Field(default=0, ge=0)
    batch_size: int = Field(default=16, ge=1)
    """Images that are read and run at once; changes no figure."""
    workers: int = Field(default=0, ge=0)
    """Processes that read images; changes no figure."""
    device: str = "auto"
    """`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1` ..."""
    hooks: bool = False
    """Run the whole network through hooks for every draw instead of cutting it; for comparison."""

    @model_validator(mode="after")
    def _ascending(self) -> DiagnoseConfig:
        if list(self.noise_ranges) != sorted(set(self.noise_ranges)):
            raise ValueError(f"noise_ranges must ascend, not {self.noise_ranges}")
        return self


class ChannelConfig(_Model):
    """The channel constraint, Eq. 5."""

    weight: float = Field(default=0.0, ge=0)
    """α, in units of the constraint's value at the start of treatment; 0 leaves it out."""
    layers: str = "last"
    """As in a diagnosis."""
    attribution: Literal["gradient", "gradient_x_activation"] = "gradient"
    """|∂y/∂m| as in the paper, or |∂y/∂m · m|."""


class SpaceConfig(_Model):
    """The space constraint, Eq. 6; it needs object masks."""

    weight: float = Field(default=1.0, ge=0)
    """β, in units of the constraint's value at the start of treatment; 0 leaves it out."""
    layers: str = "last"
    """As in a diagnosis."""
    attribution: Literal["gradient", "gradient_x_activation"] = "gradient_x_activation"
    """|∂y/∂m| as in the paper, or the background's share of |∂y/∂m · m|."""
    expand_px: float = Field(default=30, ge=0)
    """Pixels at 224 px by which the object is grown; scaled to the network's input."""
    annotated_per_class: int = Field(default=20, ge=1)
    """Annotated training images a class that are used: wrong with high confidence first, then right with low."""
    annotated_share: float = Field(default=0.25, ge=0, le=1)
    """Share of each batch that is drawn from the annotated images, in every arm."""


class TrainingConfig(_Model):
    """Fine-tuning, the same in every arm."""

    epochs: int = Field(default=10, ge=1)
    """Passes over the training split; validation chooses among them."""
    batch_size: int = Field(default=64, ge=2)
    """Images a step."""
    optimizer: str = "sgd"
    """A name of timm's optimizer factory."""
    learning_rate: float = Field(default=0.01, gt=0)
    """At the start of a cosine schedule without warm-up."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """As the optimizer defines it."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """For optimizers that have one."""
    shift: float = Field(default=0.04, ge=0, le=0.5)
    """Random translation, as a share of the edge."""
    flip: bool = True
    """Random horizontal flips."""
    clip_norm: float = Field(default=5.0, gt=0)
    """Largest norm of the gradient in the weights."""


class DataConfig(_Model):
    """The images of a treatment."""

    path: str
    """An image folder, a CSV of path and label, torchvision:NAME, or timm's names."""
    root: Path | None = None
    """Where a named data set, or a CSV's images, lie."""
    masks: Path | None = None
    """Object masks of training images, in any annotation format; needed by the space constraint."""
    groups: Path | None = None
    """A CSV with the column `path` and one that names each image's group."""
    group_column: str = "group"
    """The groups' column."""


class TreatConfig(_Model):
    """A treatment and its trial."""

    checkpoint: Path
    """What is treated; the treated checkpoint comes out in the same container."""
    arch: str | None = None
    """resnet50, timm/resnet50 or torchvision/resnet50; else the file's own word."""
    data: DataConfig
    diagnosis: Path | None = None
    """A diagnosis of this checkpoint with the layers that are constrained; made in the output folder without."""
    output: Path = Path("treatment")
    """The run directory."""
    channel: ChannelConfig = ChannelConfig()
    space: SpaceConfig = SpaceConfig()
    training: TrainingConfig = TrainingConfig()
    noise_draws: int = Field(default=10, ge=0, le=100)
    """J of Eq. 5 and 6."""
    delta: float = Field(default=0.1, gt=0)
    """Noise range δ, in units of each layer's activation standard deviation."""
    arms: tuple[Literal["treat", "continue", "shuffled-channels", "random-mask"], ...] = ("treat", "continue")
    """What is compared; `treat` always, `continue` is the same training without constraints."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0, 1, 2), min_length=1)
    """One run of every arm each."""
    workers: int = Field(default=0, ge=0)
    """Processes that read images; changes no figure."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` ..."""

    @model_validator(mode="after")
    def _fair(self) -> TreatConfig:
        if not {"treat", "continue"} <= set(self.arms):
            raise ValueError("arms must hold treat and continue: without a control there is no verdict")
        if not (self.channel.weight or self.space.weight):
            raise ValueError("both weights are 0: there is nothing to treat with")
        if self.space.weight and self.data.masks is None:
            raise ValueError("the space constraint needs data.masks; or set space.weight to 0")
        return self


def load_treat_config(path: Path | None, changes: Sequence[str] = (), **values: Any) -> TreatConfig:
    """Read a treatment's YAML file.

    Args:
        path: the file; None begins with nothing.
        changes: `key.key=value` texts that replace what the file says; values are YAML.
        values: top-level keys that replace both.

    Raises:
        ConfigError: the file or a change is not YAML, or a key or value is wrong.
    """
    where = str(path) if path else "the options"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path else {}
        for change in changes:
            _set(content, change)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"no readable YAML: {error}", where=where, expected="a file as `modeldoctor config` prints it"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"a {type(content).__name__}", where=where, expected="keys and values")
    try:
        return TreatConfig(**{**content, **values})
    except ValidationError as error:
        raise ConfigError(
            "; ".join(_problems(error)), where=where, hint="`modeldoctor config` prints every key with its default"
        ) from error


def commented_yaml(model: type[BaseModel] = TreatConfig, indent: str = "") -> str:
    """Every key of a configuration with its default, what it means, and its range, as a YAML file."""
    lines: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            lines += [
                f"{indent}# {(inner.__doc__ or '').strip()}",
                f"{indent}{name}:",
                commented_yaml(inner, indent + "  "),
            ]
            continue
        ranges = ", ".join(_range(field.metadata))
        lines.append(f"{indent}# {(field.description or '').strip()}" + (f" ({ranges})" if ranges else ""))
        if field.is_required():
            lines.append(f"{indent}{name}: ???")
        else:
            default = field.default if not isinstance(field.default, Path) else str(field.default)
            default = list(default) if isinstance(default, tuple) else default
            text = yaml.safe_dump(default, default_flow_style=True).strip().removesuffix("...").strip()
            lines.append(f"{indent}{name}: {text}")
    return "\n".join(lines)


def _range(metadata: Sequence[Any]) -> Iterator[str]:
    for mark, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        for one in metadata:
            if getattr(one, mark, None) is not None:
                yield f"{sign} {getattr(one, mark)}"


def _set(content: dict[str, Any], change: str) -> None:
    key, sign, value = change.partition("=")
    *parents, last = key.strip().split(".")
    if not sign:
        raise ConfigError(f"{change!r} has no value", where="--set", expected="key.key=value")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{parent} holds no keys", where=f"--set {change}", expected="key.key=value")
    content[last] = yaml.safe_load(value)


def _problems(error: ValidationError) -> Iterator[str]:
    for one in error.errors():
        key = ".".join(map(str, one["loc"])) or "the configuration"
        near = ""
        if one["type"] == "extra_forbidden":
            known = _keys_beside(one["loc"])
            close = get_close_matches(str(one["loc"][-1]), known, n=1, cutoff=0.0)
            near = f" (nearest: {close[0]})" if close else ""
        yield f"{key}: {one['msg']}{near}"


def _keys_beside(loc: tuple[int | str, ...]) -> list[str]:
    fields: Mapping[str, Any] = TreatConfig.model_fields
    for part in loc[:-1]:
        fields = getattr(fields[str(part)].annotation, "model_fields", {}) if str(part) in fields else {}
    return list(fields)
