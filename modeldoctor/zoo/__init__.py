"""Networks from checkpoints: name the architecture, build it, fill it with the file's weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeldoctor.checkpoint import Checkpoint
from modeldoctor.checkpoint.metadata import CheckpointMetadata
from modeldoctor.config.diagnose import Preprocessing
from modeldoctor.errors import ArchitectureError, CheckpointError, UsageError, counted
from modeldoctor.zoo.answers import layer_of_logits, settle_answer
from modeldoctor.zoo.binary import NOTE, as_two_classes
from modeldoctor.zoo.class_order import read_class_order
from modeldoctor.zoo.code import names_code
from modeldoctor.zoo.fit import Fit, Wanted, fill, fitted, warn_not_finite
from modeldoctor.zoo.heads import parse_head
from modeldoctor.zoo.hub import read_named
from modeldoctor.zoo.huggingface import translated
from modeldoctor.zoo.identify import Identification, identify, identify_file
from modeldoctor.zoo.libraries import CODE, IMAGENET, MODULE, Built, Plan, find_plans, own_config
from modeldoctor.zoo.live import AS_IT_IS, as_checkpoint, plan_of_module, told_apart
from modeldoctor.zoo.options import read_classes
from modeldoctor.zoo.preprocessing import resolve_preprocessing, with_normaliser

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
    source: Checkpoint | None
    """The file as it was read; None for a module that came without one."""
    notes: tuple[str, ...]
    """What was assumed where neither the user nor the file said it, as sentences."""
    training: Mapping[str, float | int | str | bool] = field(default_factory=dict)
    """What the file says of its own training, under the names of `checkpoint.metadata.TRAINING`."""
    options: Mapping[str, str | list[str]] = field(default_factory=dict)
    """What the user said of the network and its preprocessing, as options of the command line without their dashes; a
    list where one is repeated."""

    class_order: str | None = None
    """How the training sorted its class folders, `text` or `number`, if the user says it; stronger than the names."""

    def example(self, device: torch.device) -> Tensor:
        """Two images (2,C,H,W) of noise."""
        return noise_images(self.preprocessing).to(device)


def noise_images(preprocessing: Preprocessing) -> Tensor:
    """Two (2,C,H,W); a generator of its own leaves the caller's random state alone."""
    return torch.randn(2, *preprocessing.input_size, generator=torch.Generator().manual_seed(0))


def load_model(
    path: str | Path | nn.Module,
    checkpoint: str | Path | None = None,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    channels: int | None = None,
    head: str | Sequence[str] | None = None,
    input_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    crop_pct: float | None = None,
    resize_mode: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    class_order: str | None = None,
    download: bool = False,
    trust_pickle: bool = False,
) -> Classifier:
    """Load a classifier from a checkpoint, or take one that is in memory already.

    >>> from modeldoctor import load_model
    >>> network = load_model("ckpt.pt")
    >>> network.arch, network.num_classes, network.preprocessing.input_size
    ('timm/test_resnet', 4, (3, 32, 32))

    An option that is None is taken from the weights' shapes, else from the checkpoint's metadata, else from the
    library's defaults; `Classifier.notes` names the assumptions.

    Args:
        path: the checkpoint file, or a folder of timm or Hugging Face; or a name whose weights are in the local cache:
            `timm/resnet50.a1_in1k`, `hf-hub:org/model`, `torchvision/resnet50:IMAGENET1K_V2`; or a module, which is
            copied and stays as it is.
        checkpoint: with a module: the file with its weights, into whose container a treatment writes; by default the
            module's own weights count.
        arch: `resnet50`, `timm/resnet50` or `torchvision/resnet50`; or the user's own code, which is run:
            `path/to/file.py:make_model` or `package.module:make_model`, a callable that returns an `nn.Module`.
        num_classes: logits of the network.
        channels: input channels.
        head: the layers of a head of several that took the place of the network's own, such as "Linear,ReLU,Linear";
            their widths are read off the weights.
        input_size: pixels, one edge or (height, width).
        mean: one value, or one a channel, for pixels in [0, 1].
        std: as `mean`.
        interpolation: nearest, bilinear or bicubic.
        crop_pct: crop size / resize size.
        resize_mode: shortest, squash or pad.
        model_options: further arguments for the network's constructor, such as output_stride; for what no weight shows.
        preprocessing: all of it at once, in place of the five options before.
        class_names: in the order of the logits, in place of the file's.
        class_order: the same as an option's text: names separated by commas, a file of them, or `text` or `number`: the
            order in which the training sorted its class folders.
        download: fetch the weights of a name that are not in the cache.
        trust_pickle: let a pickle EXECUTE code from the file; only for a trusted source.

    Raises:
        CheckpointError: the file cannot be read, a name's weights are not there, or the tensors do not fit the
            architecture.
        ArchitectureError: the architecture is not given, not known, or cannot be built with these options.
        UsageError: the preprocessing options contradict the network.
    """
    if preprocessing is not None:
        input_size, mean, std = preprocessing.input_size[1:], preprocessing.mean, preprocessing.std
        interpolation, crop_pct = preprocessing.interpolation, preprocessing.crop_pct
        resize_mode = preprocessing.resize_mode
        channels = channels or preprocessing.input_size[0]
    live, file = told_apart(path, checkpoint)
    if live is not None and file is None:
        held, named = as_checkpoint(live), None
    else:
        assert file is not None
        held, named = read_named(file, download=download, trust_pickle=trust_pickle and live is None)
    arch = arch or named
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    wanted = Wanted(
        num_classes=num_classes, channels=channels, size=size, head=parse_head(head), options=model_options or {}
    )
    if held.module is not None:
        built, notes = _whole(held)
    else:
        built, held, notes = _rebuilt(held, arch, wanted, live)
    classes = _logits(built, held, num_classes)
    preprocessing, assumed = resolve_preprocessing(
        {
            "input_size": size,
            "mean": mean,
            "std": std,
            "interpolation": interpolation,
            "crop_pct": crop_pct,
            "resize_mode": resize_mode,
        },
        held.metadata,
        built.defaults,
        channels=built.plan.channels or channels or held.metadata.in_chans or 3,
        fixed_size=built.fixed_size,
        path=held.path,
    )
    said = num_classes or held.metadata.num_classes or len(class_names or held.metadata.class_names or ()) or None
    built, classes, answered = _answered(built, held, noise_images(preprocessing), stated=said, likely=classes)
    order = read_class_order(class_names or class_order)
    names, doubts = _names(order.names, held.metadata, classes)
    return Classifier(
        module=built.module.float().eval(),
        arch=built.plan.arch,
        num_classes=classes,
        class_names=names,
        class_order=order.order,
        preprocessing=preprocessing,
        checkpoint_sha256=held.sha256,
        source=None if file is None else replace(held, module=None),
        notes=(*notes, *answered, *doubts, *assumed),
        training=held.metadata.training,
        options=_options(
            head=parse_head(head),
            num_classes=num_classes,
            channels=channels,
            mean=mean,
            input_size=size[0] if size and size[0] == size[1] else None,
            std=std,
            interpolation=interpolation,
            crop_pct=crop_pct,
            resize_mode=resize_mode,
            class_order=class_order if class_names is None else tuple(class_names),
            model_option=[f"{name}={json.dumps(value)}" for name, value in (model_options or {}).items()] or None,
        ),
    )


def _options(*, model_option: list[str] | None, **stated: object) -> dict[str, str | list[str]]:
    """Those that the user stated, as the command line takes them; a list is given word by word."""
    repeated: dict[str, str | list[str]] = {} if model_option is None else {"model_option": model_option}
    return repeated | {
        name: ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
        for name, value in stated.items()
        if value is not None
    }


def _rebuilt(
    checkpoint: Checkpoint, arch: str | None, wanted: Wanted, live: nn.Module | None
) -> tuple[Built, Checkpoint, tuple[str, ...]]:
    """The network with the file's weights, and the file by the network's names."""
    if live is None and (arch is None or not names_code(arch)):
        checkpoint = translated(checkpoint, wanted.size)
    tensors = checkpoint.under_file_names()
    plans, said = _plans(checkpoint, arch, wanted) if live is None else ([plan_of_module(live)], (AS_IT_IS,))
    fits = _by_fit(plans, tensors, checkpoint, wanted)
    if fits[0].problems and not arch and checkpoint.metadata.arch and not said:
        found = _asked(checkpoint, wanted)
        if found and found.fit.problems < fits[0].problems and not found.fit.problems:
            said = (f"the file says {checkpoint.metadata.arch!r}, which its weights do not fit", found.reason)
            fits = _by_fit([found.best.plan], tensors, checkpoint, wanted)
    best = fits[0]
    fill(best, checkpoint)
    if checkpoint.finish:
        checkpoint.finish(best.built.module)
    names = {name: held for name, held in best.names.items() if name in best.tensors}
    metadata, normalised = with_normaliser(checkpoint.metadata, best.outside)
    network = replace(
        checkpoint,
        metadata=metadata,
        tensors=dict(best.tensors),
        prefix="",
        to_file=lambda tensors: checkpoint.to_file({names[name]: tensor for name, tensor in tensors.items()}),
    )
    return best.built, network, (*said, *_choice(fits), *best.notes, *normalised, *checkpoint.notes, *best.built.notes)


def _by_fit(plans: list[Plan], tensors: Mapping[str, Tensor], checkpoint: Checkpoint, wanted: Wanted) -> list[Fit]:
    return sorted((fitted(plan, tensors, checkpoint.metadata, wanted) for plan in plans), key=lambda fit: fit.rank)


def _plans(checkpoint: Checkpoint, arch: str | None, wanted: Wanted) -> tuple[list[Plan], tuple[str, ...]]:
    """What to build: as the user says, else as the file says in a library's words, else as its tensors say."""
    if arch:
        return find_plans(arch, where="--arch", code=True), ()
    stated = checkpoint.metadata.arch
    if stated is not None:
        try:
            return find_plans(stated, where=f"the metadata of {checkpoint.path}"), ()
        except ArchitectureError as error:
            unknown = error
    try:
        found = identify(checkpoint, wanted)
    except ArchitectureError:
        if stated is not None:
            raise unknown from None
        raise
    said = [f"the file's {stated!r} is no architecture that is known"] if stated is not None else []
    return [found.best.plan], (*said, found.reason)


def _asked(checkpoint: Checkpoint, wanted: Wanted) -> Identification | None:
    try:
        return identify(checkpoint, wanted)
    except ArchitectureError:
        return None


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
        defaults={**IMAGENET, **own_config(module)},
    )
    return built, (AS_IT_IS,)


def _logits(built: Built, checkpoint: Checkpoint, stated: int | None) -> int | None:
    """The number of logits; None for a network of one's own, where what it gives will show it."""
    count = read_classes(built, built.module.state_dict()) or stated or checkpoint.metadata.num_classes
    if count is None and built.plan.library not in (CODE, MODULE):
        raise CheckpointError(
            f"the network {built.plan.arch} has no head that shows the number of classes",
            where=str(checkpoint.path),
            hint="pass --num-classes; a feature extractor without a head cannot be diagnosed",
        )
    return count


def _answered(
    built: Built, checkpoint: Checkpoint, images: Tensor, *, stated: int | None, likely: int | None
) -> tuple[Built, int, tuple[str, ...]]:
    """The network with one logit per class, their number, and what was done to it for that.

    Args:
        built: the network; of the user's own code its answer is looked at.
        checkpoint: its file.
        images: two (2,C,H,W).
        stated, likely: numbers of classes, as somebody says and as the head's shape does.
    """
    notes: tuple[str, ...] = ()
    if built.plan.library in (CODE, MODULE):
        likely, notes = settle_answer(built.module.float().eval(), images, stated=stated, likely=likely)
        built = replace(built, head=layer_of_logits(built.module, images) or built.head)
    assert likely is not None
    _refuse_multi_label(checkpoint, likely)
    if likely == 1:
        as_two_classes(built, torch.zeros_like(images), checkpoint.path)
        return built, 2, (*notes, NOTE)
    return built, likely, notes


def _refuse_multi_label(checkpoint: Checkpoint, classes: int) -> None:
    if classes > 1 and checkpoint.metadata.multi_label:
        raise CheckpointError(
            f"a multi-label network: the file says so, and each of its {classes} logits is a yes or no of its own",
            where=str(checkpoint.path),
            expected="a classifier that gives each image one class",
            hint="for one label k, save the network with that row of its head alone (weight[k:k+1], bias[k:k+1]): one "
            "logit is diagnosed as two classes",
        )


def _names(
    stated: Sequence[str] | None, metadata: CheckpointMetadata, classes: int
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The classes' names, as the user states them or else as the file does; and what is doubtful about the file's.

    Raises:
        UsageError: the network has another number of outputs than there are names stated.
    """
    if stated is not None:
        if len(stated) == classes:
            return tuple(stated), ()
        raise UsageError(
            f"{len(stated)} class names, but the network has {classes} outputs",
            where="--class-order",
            expected=f"{classes} names, in the order of the logits",
            hint="name every class that was trained, also those without images here",
        )
    doubt = (metadata.names_doubt,) if metadata.names_doubt else ()
    names = metadata.class_names
    if names is None or len(names) == classes:
        return None if names is None else tuple(names), doubt
    found = counted(len(names), "class", "classes")
    return None, (f"the checkpoint names {found}, the network has {classes}: they are not used", *doubt)
