"""Any checkpoint file → its tensors by plain names, where they lay, and what the file says about the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from modeldoctor.checkpoint.container import Container, Contents, read_contents, refuse
from modeldoctor.checkpoint.foreign import ADAPTER, MERGE, SAVE_WEIGHTS
from modeldoctor.checkpoint.inert import PACKED, StandIn, is_array
from modeldoctor.checkpoint.metadata import CheckpointMetadata, read_metadata
from modeldoctor.checkpoint.names import AVERAGED, HEAD
from modeldoctor.errors import shortened

__all__ = ["Checkpoint", "CheckpointMetadata", "Container", "read_checkpoint"]

# The first of these that holds weights is taken. Averaged (EMA) weights come first: they are what timm evaluates.
WEIGHT_KEYS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "weights",
)
EMA_KEYS = ("ema", "ema_model", "model_averaged", "swa_model", "module", "model", "state_dict")
DENSE = "save the network's dense floating-point weights, before it was quantized or pruned"
MAX_NESTING = 3
MAX_ITEMS = 16
# What wrappers put before every name: DataParallel and AveragedModel, torch.compile, FSDP, Lightning and other modules.
# No network of timm or torchvision has one of these before all its names.
PREFIXES = (
    "module.", "_orig_mod.", "model.", "net.", "_forward_module.", "_fsdp_wrapped_module.", "network.", "_model.",
    "base_model.", "backbone.", "student.",
)  # fmt: skip
WRAPPERS = ("module", "_orig_mod")
# Whose modules are wrappers if they hold one module of such a name and nothing else.
WRAPPING = ("torch", "timm", "accelerate", "deepspeed", "lightning", "lightning_fabric", "pytorch_lightning")
# What constructors compute anew and what profilers leave behind: files of other versions have it or not.
BESIDE = ("attn_mask", "relative_coords_table", "total_ops", "total_params")
EMA_COUNTER = "n_averaged"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The weights of one network and where in which file they lay."""

    path: Path
    """As given: a file, or a folder."""
    container: Container
    weights_path: Path
    """The file that holds the tensors."""
    sha256: str
    """Of `weights_path`, in hexadecimal."""
    tensors: dict[str, Tensor]
    """By name without `prefix`; on the CPU, in the file's own precision."""
    key: tuple[str, ...]
    """The dict keys that lead to the tensors, outermost first; () for a bare state dict."""
    prefix: str
    """What every name carried in the file, such as "module._orig_mod."; "" for none."""
    metadata: CheckpointMetadata
    module: nn.Module | None = None
    """The network itself where a trusted file held it whole, without its wrappers."""
    to_file: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict
    """From `tensors`' names to the file's, where they are a network's own names."""
    base: str | None = None
    """The architecture that `metadata.model_args` makes into the file's, where no known name has its tensors."""
    finish: Callable[[nn.Module], None] | None = None
    """What is left to be set in the network that was built."""
    notes: tuple[str, ...] = ()
    """What became other tensors than the file's, as sentences."""

    def under_file_names(self) -> dict[str, Tensor]:
        """The tensors by the file's own names."""
        return {self.prefix + name: tensor for name, tensor in self.tensors.items()}


def read_checkpoint(path: str | Path, *, trust_pickle: bool = False) -> Checkpoint:
    """Read the weights in a PyTorch, safetensors or timm-folder checkpoint without running anything from it.

    Several sets of weights in one file: the first of `WEIGHT_KEYS` is taken. A prefix is stripped only if every
    tensor carries it; the counter of averaged models is dropped.

    Args:
        path: a file, or a folder with `config.json`.
        trust_pickle: load pickled objects also if they EXECUTE code from the file; only for a trusted source.

    Raises:
        CheckpointError: the file is damaged, unsafe, of another kind, or holds no weights.
    """
    path = Path(path)
    contents = read_contents(path, trust_pickle=trust_pickle)
    located = next(find_weights(contents.root), None)
    if located is None:
        _refuse_without_weights(contents)
    key, held = located
    module = unwrapped(held) if isinstance(held, nn.Module) else None
    state = module.state_dict() if module is not None else held
    assert isinstance(state, Mapping)
    tensors, prefix = without_prefix(_plain(contents.weights_path, state))
    if any(ADAPTER.search(name) for name in tensors):
        refuse(contents.weights_path, "an adapter (LoRA), which holds only what changes in another network", MERGE)
    return Checkpoint(
        path=path,
        container=contents.container,
        weights_path=contents.weights_path,
        sha256=contents.sha256,
        tensors=tensors,
        key=key,
        prefix=prefix,
        metadata=read_metadata(contents.root, contents.described),
        module=module,
    )


def find_weights(
    value: object, key: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any] | nn.Module]]:
    """Every set of weights in an unpickled file, in the order of `WEIGHT_KEYS`, and the keys that lead to it.

    An average under a key such as `ema` comes first where it has every name of the network beside it: some hold less.
    Where none of these keys leads to any, the only set under any key counts, or the only network with its average, or a
    network and its head side by side.
    """
    known = list(_under_keys(value, key, WEIGHT_KEYS))
    if known and not _averaged(known[0][0]):
        yield from (each for each in _under_keys(value, key, EMA_KEYS) if _twins([known[0], each]))
    yield from known
    if not known:
        elsewhere = list(_under_keys(value, key, None))
        if len(elsewhere) == 1 or _twins(elsewhere):
            yield from sorted(elsewhere, key=lambda located: not _averaged(located[0]))
        elif _body_and_head(elsewhere):
            yield elsewhere[0][0][:-1], _Joined({name: held for (*_, name), held in elsewhere})


class _Joined(dict[str, Tensor]):
    """Parts of one network, each under a key of its own, by dotted names; what is set goes into the part, too."""

    def __init__(self, parts: Mapping[str, Any]):
        self._places = {f"{part}.{name}": (held, name) for part, held in parts.items() for name in held}
        super().__init__({name: held[own] for name, (held, own) in self._places.items()})

    def __setitem__(self, name: str, tensor: Tensor) -> None:
        """Put a tensor into its part."""
        held, own = self._places[name]
        held[own] = tensor
        super().__setitem__(name, tensor)


def _body_and_head(sets: list[tuple[tuple[str, ...], Mapping[Any, Any] | nn.Module]]) -> bool:
    """Whether these are {"backbone": ..., "head": ...}: beside each other, no name in both, one called a head."""
    if len(sets) != 2 or sets[0][0][:-1] != sets[1][0][:-1] or any(isinstance(held, nn.Module) for _, held in sets):
        return False
    (one, first), (other, second) = ((key[-1], set(held)) for key, held in sets if isinstance(held, Mapping))
    return bool(HEAD.search(one)) != bool(HEAD.search(other)) and not first & second


def _twins(sets: list[tuple[tuple[str, ...], Mapping[Any, Any] | nn.Module]]) -> bool:
    """Whether these are a network and its average, as the keys' words say and the tensors' names."""
    if len(sets) != 2 or sum(_averaged(key) for key, _ in sets) != 1:
        return False
    names = [set(held) if isinstance(held, Mapping) else set(held.state_dict()) for _, held in sets]
    return len(names) == 2 and names[0] == names[1]


def _averaged(key: tuple[str, ...]) -> bool:
    return any(AVERAGED.search(word) for word in key)


def _under_keys(
    value: object, key: tuple[str, ...], keys: tuple[str, ...] | None
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any] | nn.Module]]:
    """Sets of weights below these keys, or below every key that is a text."""
    if isinstance(value, nn.Module) and value.state_dict():
        yield key, value
    if isinstance(value, StandIn) and value.is_module:
        if state := value.tensors():
            yield key, state
        return
    if isinstance(value, StandIn):  # an object that holds a network, such as a trainer
        value = {**value.state, **value}
    listed = isinstance(value, list | tuple) and len(value) <= MAX_ITEMS  # such as (weights, epoch)
    if isinstance(value, list | tuple) and listed:
        value = {str(at): item for at, item in enumerate(value)}
    # Nesting is bounded, since a pickle may contain itself.
    if not isinstance(value, Mapping) or len(key) > MAX_NESTING:
        return
    inner = False
    for name in keys or [name for name in value if isinstance(name, str)]:
        for located in _under_keys(value.get(name), (*key, name), keys):
            inner = True
            yield located
    tensors = sum(isinstance(v, Tensor) for v in value.values()) * (not listed)
    if not inner and 2 * tensors > len(value):
        yield key, value


def is_weight(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is one that a network cannot do without: no counter, index or table that it computes anew."""
    return tensor.is_floating_point() and name.rpartition(".")[2] not in BESIDE


def _refuse_without_weights(contents: Contents) -> NoReturn:
    root = contents.root
    several = [".".join(key) for key, _ in _under_keys(root, (), None)]
    if several:
        refuse(
            contents.weights_path,
            f"{len(several)} sets of weights, none of them under a name that says it is the network's: "
            f"{shortened(several)}",
            "save the network's alone, or all parts of it as one: torch.save(model.state_dict(), 'model.pt')",
            expected=f"one set of weights, bare or under {', '.join(WEIGHT_KEYS)}",
        )
    if _holds_arrays(root):
        refuse(
            contents.weights_path,
            "weights as numpy arrays, not as tensors",
            "save them as tensors: torch.save({name: torch.from_numpy(array) for name, array in weights.items()},"
            " 'model.pt')",
            expected=f"a state dict, bare or under {', '.join(WEIGHT_KEYS)}",
        )
    what = (
        f"the keys {', '.join(map(repr, list(root)[:12])) or '(none)'}"
        if isinstance(root, Mapping)
        else type(root).__name__
    )
    optimizer = isinstance(root, Mapping) and any(
        key in root for key in ("param_groups", "optimizer", "optimizer_states")
    )
    found = f"no network weights, {'only optimizer state' if optimizer else 'only other values'}: {what}"
    refuse(contents.weights_path, found, SAVE_WEIGHTS, expected=f"a state dict, bare or under {', '.join(WEIGHT_KEYS)}")


def _holds_arrays(value: object, depth: int = 0) -> bool:
    """Whether most values of a mapping, or of one in it, are numpy arrays under dotted names."""
    if not isinstance(value, Mapping) or depth > MAX_NESTING:
        return False
    arrays = sum(isinstance(name, str) and "." in name and is_array(held) for name, held in value.items())
    return 2 * arrays > len(value) or any(_holds_arrays(held, depth + 1) for held in value.values())


def _plain(path: Path, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    if packed := [str(name) for name in state if str(name).endswith(PACKED)]:
        refuse(path, f"a quantized network ({shortened(packed)})", DENSE)
    tensors = {name: value.detach() for name, value in state.items() if isinstance(value, Tensor)}
    for name, tensor in tensors.items():
        if not isinstance(name, str):
            refuse(path, f"a tensor under the key {name!r}, which is no name", SAVE_WEIGHTS)
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            kind = "quantized" if tensor.is_quantized else "empty (meta)" if tensor.is_meta else str(tensor.layout)
            refuse(path, f"the {kind} tensor {name!r}", DENSE)
    return tensors


def without_prefix(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """The tensors by plain names without the counter of averaged models, and the prefix that all of them carried."""
    stripped = ""
    while True:
        tensors = {name: tensor for name, tensor in tensors.items() if name != EMA_COUNTER} or tensors
        named = (p for p in PREFIXES if tensors and all(name.startswith(p) and name != p for name in tensors))
        prefix = next(named, None)
        if prefix is None:
            return tensors, stripped
        tensors, stripped = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, stripped + prefix


def unwrapped(module: nn.Module) -> nn.Module:
    """A module without DataParallel, torch.compile and their like around it; a network's own `module` stays."""
    while type(module).__module__.partition(".")[0] in WRAPPING:
        inner = [part for name, part in module.named_children() if name in WRAPPERS]
        if not inner or len(list(module.children())) > 1:
            break
        module = inner[0]
    return module
