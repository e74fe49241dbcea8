"""The libraries whose networks we know, our own among them: names, how one is built, where head and first layer are."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import timm
import torch
import torchvision
from timm.data import resolve_data_config
from timm.models._registry import _deprecated_models
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision.models import get_model, get_model_weights, list_models

from modeldoctor.errors import ArchitectureError
from modeldoctor.zoo.code import build_from_code, head_of_code, names_code
from modeldoctor.zoo.networks import OWN, SMALL, adapt
from modeldoctor.zoo.networks.pooling import CLASS_AND_MEAN, pool_class_and_mean

# Constructor arguments that change what a timm network computes; no other reaches timm from a file.
TIMM_ARGS = frozenset((
    "img_size", "global_pool", "patch_size", "window_size", "act_layer", "norm_layer", "fc_norm", "class_token",
    "output_stride", "bn_eps", "norm_eps", "reg_tokens", "no_embed_class", "pos_embed", "qkv_bias", "qk_norm",
    "init_values", "pre_norm", "final_norm", "pool_include_prefix", "depth", "depths", "embed_dim", "embed_dims",
    "num_heads", "mlp_ratio", "dims", "layers", "channels", "cardinality", "base_width", "stem_width", "stem_type",
    "replace_stem_pool", "avg_down", "down_kernel_size", "block_reduce_first", "aa_layer", "block_args", "conv_bias",
    "conv_mlp", "use_grn", "ls_init_value", "kernel_sizes", "head_hidden_size", "head_norm_first", "dynamic_img_size",
    "use_abs_pos_emb", "use_rel_pos_bias", "use_shared_rel_pos_bias", "pretrained_window_sizes",
))  # fmt: skip
# A file may not make a network of absurd depth or width.
_MOST_LAYERS, _WIDEST = 512, 2**16
# Torchvision families whose input size is fixed when they are built: the argument, and whether it wants one edge.
TORCHVISION_SIZES = (("vit_", "image_size", True), ("maxvit_", "input_size", False))
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")
TORCHVISION_AUX = ("googlenet", "inception_v3")
DEFAULT_CLASSES = 1000
TRANSFORM_INPUT = (
    "built without transform_input, which torchvision sets where it loads its own pretrained weights; if the network "
    "was fine-tuned from those, pass --mean 0.5 --std 0.5"
)
AUXILIARY = re.compile(r"(aux\d*|AuxLogits|aux_head|aux_classifier)\.")
SMALL_SIZE = (32, 32)
IMAGENET = {
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bilinear",
    "crop_pct": 0.875,
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to build; None is the architecture's own default."""

    library: str
    name: str
    """The library's own name, without a pretraining tag."""
    tag: str = ""
    """timm's pretraining tag, which decides the default preprocessing."""
    num_classes: int | None = None
    channels: int | None = None
    image_size: tuple[int, int] | None = None
    """Height and width; without effect on networks that take any size."""
    auxiliary: bool = False
    """With the auxiliary heads that some networks have in training."""
    model_args: Mapping[str, Any] = field(default_factory=dict)
    """What the file says of the constructor's arguments; those that change the network are used."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the user says of them; all are used."""
    module: nn.Module | None = None
    """A network that is in memory, of which a copy takes the place of what would be built."""

    @property
    def arch(self) -> str:
        """The full name, such as "timm/resnet50.a1_in1k" or "my_code.py:make_model"."""
        if self.library == CODE:
            return self.name
        return f"{self.library}/{self.name}" + f".{self.tag}" * bool(self.tag)


@dataclass(frozen=True, kw_only=True)
class Built:
    """A network in the library's own terms, its weights not yet filled in."""

    plan: Plan
    module: nn.Module
    head: str | None
    """The name of the layer that gives the logits."""
    stem: str | None
    """The name of the layer that reads the image."""
    fixed_size: tuple[int, int] | None
    """Height and width, where the network takes no other."""
    defaults: Mapping[str, Any]
    """The library's preprocessing, with the keys of timm's data config."""
    notes: tuple[str, ...] = ()
    """What the weights could not tell."""


@dataclass(frozen=True)
class _Library:
    has: Callable[[str], bool]
    names: Callable[[], Collection[str]]
    build: Callable[[Plan], Built]


def find_plans(arch: str, *, where: str, code: bool = False) -> list[Plan]:
    """Every library's network of that name: `resnet50`, `timm/resnet50.a1_in1k`, `torchvision/vgg16`, `code.py:make`.

    Args:
        arch: the name.
        where: it was found, for messages.
        code: whether the user's own code may be meant; never of a name that stands in a file, since it would run.

    Raises:
        ArchitectureError: no library has it; the nearest names are listed.
    """
    if code and names_code(arch):
        return [Plan(library=CODE, name=arch)]
    library, _, full = _current(arch.removeprefix("hf-hub:").removeprefix("hf_hub:")).rpartition("/")
    name, _, tag = full.partition(".")
    wanted = [library] if library in LIBRARIES else [] if library else list(LIBRARIES)
    plans = [Plan(library=each, name=name.lower(), tag=tag) for each in wanted if LIBRARIES[each].has(name.lower())]
    plans = [plan if _knows_tag(plan) else replace(plan, tag="") for plan in plans]
    if not plans:
        near = [
            f"{each}/{match}"
            for each in LIBRARIES
            for match in difflib.get_close_matches(name.lower(), LIBRARIES[each].names(), 3)
        ]
        hint = f"pass --arch with one of the libraries' names{', such as ' + ', '.join(near) if near else ''}"
        raise ArchitectureError(
            f"unknown architecture {arch!r}",
            where=where,
            expected="NAME, timm/NAME, torchvision/NAME or FILE.py:FUNCTION",
            hint=f"name the function in it, too: {arch}:FUNCTION" if arch.endswith(".py") else hint,
        )
    return plans


def build(plan: Plan, *, meta: bool = False) -> Built:
    """Build the network with its weights left unset and the global random state untouched.

    Args:
        plan: what to build.
        meta: shapes alone are wanted; on the meta device, where the library can do that, else on the CPU.

    Raises:
        ArchitectureError: the library refuses these options.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            try:
                with torch.device("meta" if meta else "cpu"), _skipped(plan):
                    return LIBRARIES[plan.library].build(plan)
            except (NotImplementedError, RuntimeError):
                if not meta:
                    raise
                with _skipped(plan):  # some constructors compute with tensors
                    return LIBRARIES[plan.library].build(plan)
    except ArchitectureError:
        raise
    except Exception as error:  # each architecture has its own way to refuse an option
        options = ", ".join(
            f"{name} {value}"
            for name in ("num_classes", "channels", "image_size", "options")
            if (value := getattr(plan, name))
        )
        raise ArchitectureError(
            f"{plan.library} cannot build {plan.name} ({type(error).__name__}: {error})",
            where=f"{plan.arch} with {options or 'its defaults'}",
            hint="check --arch, --input-size, --channels, --num-classes and --model-option",
        ) from error


def _current(arch: str) -> str:
    """A name that timm has given up in favour of another, as that one."""
    library, slash, name = arch.rpartition("/")
    new = _deprecated_models.get(name.lower()) if library in ("", "timm") else None
    return f"timm/{new}" if new else f"{library}{slash}{name}"


def _knows_tag(plan: Plan) -> bool:
    return plan.library == "timm" and f"{plan.name}.{plan.tag}" in timm.list_models(f"{plan.name}.*", pretrained=True)


def _build_timm(plan: Plan) -> Built:
    options = {name: value for name, value in plan.model_args.items() if name in TIMM_ARGS and _sane(name, value)}
    name = plan.arch.removeprefix("timm/")
    fixed = timm.get_pretrained_cfg_value(name, "fixed_input_size")
    if plan.image_size and (fixed or "img_size" in options):
        options["img_size"] = plan.image_size
    options |= plan.options
    both = options.get("global_pool") == CLASS_AND_MEAN
    if both:
        options |= {"global_pool": "", "fc_norm": False}
    module, notes = _created(
        name, {"num_classes": plan.num_classes, "in_chans": plan.channels, **options}, plan.options
    )
    cfg = module.pretrained_cfg
    if both:
        pool_class_and_mean(module, plan.num_classes or cfg["num_classes"] or DEFAULT_CLASSES)
    size = options.get("img_size", cfg["input_size"][-2:])
    return Built(
        plan=plan,
        module=module,
        head=_one(cfg.get("classifier")),
        stem=_one(cfg.get("first_conv")),
        fixed_size=(size, size) if isinstance(size, int) else tuple(size) if fixed else None,
        defaults=resolve_data_config(pretrained_cfg=cfg),
        notes=notes,
    )


def _created(name: str, options: dict[str, Any], stated: Collection[str]) -> tuple[Any, tuple[str, ...]]:
    """The network, without the file's options that its constructor does not know, and what is to be said of these."""
    notes: list[str] = []
    while True:
        try:
            return timm.create_model(name, pretrained=False, **options), tuple(notes)
        except TypeError as error:
            unknown = _UNKNOWN_OPTION.search(str(error))
            if unknown is None or unknown[1] not in TIMM_ARGS or unknown[1] not in options or unknown[1] in stated:
                raise
            notes.append(f"{name} has no option {unknown[1]}: what the file says of it is not used")
            del options[unknown[1]]


def _sane(name: str, value: object) -> bool:
    if isinstance(value, Mapping):
        return all(_sane(name, item) for item in value.values())
    if isinstance(value, list | tuple):
        return len(value) <= _MOST_LAYERS and all(_sane(name, item) for item in value)
    limit = _MOST_LAYERS if name in ("depth", "depths", "layers") else _WIDEST
    return not isinstance(value, int | float) or abs(value) <= limit


def _one(name: str | Sequence[str] | None) -> str | None:
    """Distilled networks name two heads of equal shape; either serves."""
    return name if isinstance(name, str) or name is None else next(iter(name), None)


def _build_torchvision(plan: Plan) -> Built:
    options: dict[str, Any] = {"num_classes": plan.num_classes or DEFAULT_CLASSES}
    if plan.name in TORCHVISION_AUX:
        options |= {"init_weights": False, "aux_logits": plan.auxiliary}
    defaults = _torchvision_defaults(plan.name)
    fixed = next((row for row in TORCHVISION_SIZES if plan.name.startswith(row[0])), None)
    size = plan.image_size or defaults["input_size"][-2:] if fixed else None
    if fixed and size:
        if fixed[2] and size[0] != size[1]:
            raise ValueError(f"it takes square images only, not {size[0]}x{size[1]}")
        options[fixed[1]] = size[0] if fixed[2] else size
    options |= plan.options
    module = get_model(plan.name, weights=None, **options)
    layers = [(name, m) for name, m in module.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    stem = next((name for name, layer in layers if isinstance(layer, nn.Conv2d)), None)
    head = next((name for name, _ in reversed(layers) if not AUXILIARY.match(name)), None)
    notes = (TRANSFORM_INPUT,) if plan.name in TORCHVISION_AUX else ()
    if stem and plan.channels:
        _take_channels(module, stem, plan.channels)
    return Built(plan=plan, module=module, head=head, stem=stem, fixed_size=size, defaults=defaults, notes=notes)


def _take_channels(module: nn.Module, stem: str, channels: int) -> None:
    old = module.get_submodule(stem)
    assert isinstance(old, nn.Conv2d)
    if old.in_channels == channels:
        return
    same = {
        name: getattr(old, name) for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    }
    module.set_submodule(stem, nn.Conv2d(channels, old.out_channels, bias=old.bias is not None, **same))


def _torchvision_defaults(name: str) -> dict[str, Any]:
    weights = get_model_weights(name)
    if not len(weights):
        return IMAGENET
    # The first weights are of the plain recipe (resize 256, crop 224), which people's own training follows.
    return torchvision_preprocessing(next(iter(weights)))


def torchvision_preprocessing(weights: Any) -> dict[str, Any]:
    """What torchvision's weights were trained with, with the keys of timm's data config."""
    preset = weights.transforms()
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    return {
        "input_size": (3, crop, crop),
        "mean": tuple(preset.mean),
        "std": tuple(preset.std),
        "interpolation": preset.interpolation.value,
        "crop_pct": min(crop / resize, 1.0),
    }


def _torchvision_names() -> list[str]:
    return list_models(module=torchvision.models)  # type: ignore[no-any-return]


_OWN_NAMES = (*OWN, *SMALL)


def _build_own(plan: Plan) -> Built:
    if plan.options:
        raise ValueError(f"{plan.arch} has no options")
    small = SMALL.get(plan.name)
    if small:
        base = plan_of(small.base)
        built = LIBRARIES[base.library].build(replace(plan, library=base.library, name=base.name))
        adapt(built.module, small)
    else:
        module = OWN[plan.name](plan.num_classes or DEFAULT_CLASSES, plan.channels or 3)
        layers = [
            (name, submodule)
            for name, submodule in module.named_modules()
            if isinstance(submodule, nn.Conv2d | nn.Linear)
        ]
        built = Built(
            plan=plan, module=module, head=layers[-1][0], stem=layers[0][0], fixed_size=None, defaults=IMAGENET
        )
    return replace(built, plan=plan, defaults={**built.defaults, "input_size": (3, *SMALL_SIZE), "crop_pct": 1.0})


def _build_code(plan: Plan) -> Built:
    live = plan.module
    module = build_from_code(plan.name, plan.num_classes, plan.options) if live is None else copy.deepcopy(live)
    layers = [(name, m) for name, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    stem = next((name for name, layer in layers if isinstance(layer, nn.Conv2d)), None)
    last = layers[-1][0] if layers else None
    return Built(
        plan=plan,
        module=module,
        head=head_of_code(plan.name, plan.options, layers) if live is None else last,
        stem=stem,
        fixed_size=None,
        defaults={**IMAGENET, **own_config(module)},
    )


def own_config(module: nn.Module) -> Mapping[str, Any]:
    """The preprocessing that a module names itself, as timm's do."""
    config = getattr(module, "pretrained_cfg", None)
    return {name: value for name, value in config.items() if value is not None} if isinstance(config, dict) else {}


CODE = "code"
"""The library of networks that the user's own code builds."""
MODULE = "module"
"""That of modules in memory."""

LIBRARIES = {
    "timm": _Library(timm.is_model, timm.list_models, _build_timm),
    "torchvision": _Library(lambda name: name in _torchvision_names(), _torchvision_names, _build_torchvision),
    "modeldoctor": _Library(lambda name: name in _OWN_NAMES, lambda: _OWN_NAMES, _build_own),
    CODE: _Library(lambda name: False, tuple, _build_code),
    MODULE: _Library(lambda name: False, tuple, _build_code),
}


def architectures() -> list[str]:
    """Every name that can be built, library first: "timm/resnet50"."""
    return [f"{library}/{name}" for library, known in LIBRARIES.items() for name in sorted(known.names())]


def plan_of(arch: str) -> Plan:
    """The plan of a full name, such as "timm/resnet50", with the library's defaults."""
    library, _, name = arch.partition("/")
    return Plan(library=library, name=name)


_FILLS = {"uniform_", "normal_", "erfinv_", "mul_", "add_", "div_", "clamp_", "fill_", "zero_"}


def _skipped(plan: Plan) -> AbstractContextManager[Any]:
    """The user's code may keep what it fills, in a buffer that no checkpoint has."""
    return nullcontext() if plan.library in (CODE, MODULE) else _SkipFills()


class _SkipFills(TorchFunctionMode):
    """Random weights would be overwritten at once; not drawing them makes large networks build in a moment."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # Whole init functions only: without their draws, trunc_normal_ would redraw for ever.
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        # On the meta device there is nothing to fill, and saying so takes longer than filling.
        if getattr(func, "__name__", None) in _FILLS and args and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return func(*args, **kwargs)
