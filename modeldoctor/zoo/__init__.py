"""Networks from checkpoints: name the architecture, build it, fill it with the file's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from modeldoctor.checkpoint import Checkpoint, read_checkpoint
from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.errors import CheckpointError
from modeldoctor.zoo.fit import Fit, Wanted, fill, fitted, warn_not_finite
from modeldoctor.zoo.identify import identify, identify_file
from modeldoctor.zoo.libraries import IMAGENET, Built, Plan, find_plans
from modeldoctor.zoo.options import read_classes
from modeldoctor.zoo.preprocessing import resolve_preprocessing

__all__ = ["Classifier", "identify_file", "load_model"]


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained classifier, ready to be asked."""

    module: nn.Module
    """(B,C,H,W) float32 → (B,N) logits; in eval mode, on the CPU."""
    arch: str
    """Such as "timm/resnet50"; "module/ClassName" for a network that was saved whole."""
    num_classes: int
    class_names: tuple[str, ...] | None
    """In the order of the logits; None if the file does not say."""
    preprocessing: Preprocessing
    checkpoint_sha256: str
    path: Path
    notes: tuple[str, ...]
    """What was assumed where neither the user nor the file said it, as sentences."""
    training: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    """What the file says of its own training, under the names of `checkpoint_metadata.TRAINING`."""
    trust_pickle: bool = False
    """Whether the user let the file's pickle execute code; reading it again needs the same."""


def load_model(
    path: str | Path,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    channels: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    trust_pickle: bool = False,
) -> Classifier:
    """Load a timm or torchvision classifier from a checkpoint.

    An option that is None is taken from the weights' shapes, else from the checkpoint's metadata, else from the
    library's defaults; `Classifier.notes` names the assumptions.

    Args:
        path: the checkpoint file, or a timm folder.
        arch: `resnet50`, `timm/resnet50` or `torchvision/resnet50`.
        num_classes: logits of the network.
        channels: input channels.
        input_size: pixels, one edge or (height, width).
        mean: one value, or one a channel, for pixels in [0, 1].
        std: as `mean`.
        interpolation: nearest, bilinear or bicubic.
        crop_pct: crop size / resize size.
        trust_pickle: let a pickle EXECUTE code from the file; only for a trusted source.

    Raises:
        CheckpointError: the file cannot be read, or its tensors do not fit the architecture.
        ArchitectureError: the architecture is not given, not known, or cannot be built with these options.
        UsageError: the preprocessing options contradict the network.
    """
    checkpoint = read_checkpoint(path, trust_pickle=trust_pickle)
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    wanted = Wanted(num_classes=num_classes, channels=channels, size=size)
    built, notes = _whole(checkpoint) if checkpoint.module is not None else _rebuilt(checkpoint, arch, wanted)
    classes = _logits(built, checkpoint, num_classes)
    preprocessing, assumed = resolve_preprocessing(
        {"input_size": size, "mean": mean, "std": std, "interpolation": interpolation, "crop_pct": crop_pct},
        checkpoint.metadata,
        built.defaults,
        channels=built.plan.channels or channels or checkpoint.metadata.in_chans or 3,
        fixed_size=built.fixed_size,
        path=checkpoint.path,
    )
    names, doubts = _names(checkpoint, classes)
    return Classifier(
        module=built.module.float().eval(),
        arch=built.plan.arch,
        num_classes=classes,
        class_names=names,
        preprocessing=preprocessing,
        checkpoint_sha256=checkpoint.sha256,
        path=checkpoint.path,
        notes=(*notes, *doubts, *assumed),
        training=checkpoint.metadata.training,
        trust_pickle=trust_pickle,
    )


def _rebuilt(checkpoint: Checkpoint, arch: str | None, wanted: Wanted) -> tuple[Built, tuple[str, ...]]:
    name = arch or checkpoint.metadata.arch
    if name is None:
        found = identify(checkpoint, wanted)
        plans, said = [found.best.plan], [found.reason]
    else:
        plans, said = find_plans(name, where="--arch" if arch else f"the metadata of {checkpoint.path}"), []
    fits = sorted(
        (fitted(plan, checkpoint.tensors, checkpoint.metadata, wanted) for plan in plans), key=lambda fit: fit.problems
    )
    best = fits[0]
    fill(best, checkpoint)
    return best.built, (*said, *_choice(fits), *best.built.notes)


def _choice(fits: list[Fit]) -> tuple[str, ...]:
    if len(fits) == 1:
        return ()
    best, other = (fit.built.plan.arch for fit in fits[:2])
    why = f"the weights fit {other} as well" if not fits[1].problems else f"the weights do not fit {other}"
    return (f"taken as {best}: {why}",)


def _whole(checkpoint: Checkpoint) -> tuple[Built, tuple[str, ...]]:
    """A trusted module as it is; its own attributes say what timm would say."""
    module = checkpoint.module
    assert module is not None
    layers = [(name, m) for name, m in module.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    stem = next((layer for _, layer in layers if isinstance(layer, nn.Conv2d)), None)
    warn_not_finite(checkpoint.tensors, checkpoint)
    built = Built(
        plan=Plan(library="module", name=type(module).__name__, channels=stem.in_channels if stem else None),
        module=module,
        head=layers[-1][0] if layers else None,
        stem=None,
        fixed_size=None,
        defaults={**IMAGENET, **_own_config(module)},
    )
    return built, ("the network is the module that the file holds; --arch has no effect",)


def _own_config(module: nn.Module) -> Mapping[str, Any]:
    config = getattr(module, "pretrained_cfg", None)
    return {name: value for name, value in config.items() if value is not None} if isinstance(config, dict) else {}


def _logits(built: Built, checkpoint: Checkpoint, stated: int | None) -> int:
    count = stated or read_classes(built, built.module.state_dict()) or checkpoint.metadata.num_classes
    if count is None:
        raise CheckpointError(
            f"the network {built.plan.arch} has no head that shows the number of classes",
            where=str(checkpoint.path),
            hint="pass --num-classes; a feature extractor without a head cannot be diagnosed",
        )
    return count


def _names(checkpoint: Checkpoint, classes: int) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    names = checkpoint.metadata.class_names
    if names is None or len(names) == classes:
        return names, ()
    return None, (f"the checkpoint names {len(names)} classes, the network has {classes}: the names are not used",)
