"""Do the data's classes and the network's outputs mean the same?

Shape letters: N network outputs, F class folders.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from unicodedata import normalize

import numpy as np
import scipy
from numpy.typing import NDArray
from timm.data import ImageNetInfo

from modeldoctor.config.class_order import ORDERS, natural
from modeldoctor.data.content import as_read
from modeldoctor.errors import DataError, classes_have, counted, shortened

_WORDNET_ID = re.compile(r"(n\d{8})([\s_-].*)?", re.IGNORECASE)
"""`n02085620`, also with words behind it: `n02085620-Chihuahua`."""
_NULL_DRAWS = 20
_PERMUTATION_GAIN = 0.15
_ORDER_SLACK = 0.03


@dataclass(frozen=True)
class ClassMatch:
    """How class folders map to the network's outputs."""

    mapping: NDArray[np.int64]
    """(F,) the output of each class folder."""
    names: tuple[str, ...]
    """(N,) a name for each output."""
    notes: tuple[str, ...] = ()
    """What was done, for the record."""
    warnings: tuple[str, ...] = ()
    """What may well be wrong."""


def match_classes(
    folder_names: Sequence[str],
    model_names: tuple[str, ...] | None,
    num_classes: int,
    stated_order: str | None = None,
) -> ClassMatch:
    """Map class folders to outputs: by name where the checkpoint knows its names, else by number or by order.

    Args:
        folder_names: (F,) distinct class names of the data, in the order of its labels; empty where unknown.
        model_names: (N,) names of the outputs, or None.
        num_classes: N.
        stated_order: of `ORDERS`: the order of the folders that the user says; it takes precedence over all else.

    Raises:
        DataError: more folders than outputs, or some names match and others do not.
    """
    folders = tuple(normalize("NFC", name) for name in folder_names)
    model_names = tuple(normalize("NFC", name) for name in model_names) if model_names else None
    if len(folders) > num_classes:
        raise DataError(
            f"{len(folders)} class folders, but the network has {num_classes} outputs",
            where=f"classes {shortened(folders)}",
            expected=f"at most {num_classes} classes",
            hint="check that the data and the checkpoint belong together, and that the data path is the level"
            " whose folders are the classes",
        )
    if stated_order is not None and folders:
        return _by_stated_order(folders, stated_order, num_classes)
    warnings: tuple[str, ...] = ()
    if model_names is not None and (len(model_names) != num_classes or len(set(model_names)) != num_classes):
        warnings = (
            f"the checkpoint names {len(set(model_names))} different classes, but the network has {num_classes}"
            " outputs; the names are not used",
        )
        model_names = None
    match = _by_name(folders, model_names) if model_names else None
    match = match or _by_wordnet(folders, num_classes) or _by_number(folders, num_classes, model_names)
    match = match or _by_order(folders, num_classes, model_names)
    return ClassMatch(match.mapping, match.names, match.notes, warnings + match.warnings)


def _by_name(folders: tuple[str, ...], model_names: tuple[str, ...]) -> ClassMatch | None:
    """Match exactly, else as people read names; None where no name matches at all."""
    keys: tuple[Callable[[str], str], ...] = (str, as_read)
    for key in keys:
        outputs = {key(name): output for output, name in enumerate(model_names)}
        matched = [name for name in folders if key(name) in outputs]
        distinct = len(outputs) == len(model_names) and len({key(name) for name in folders}) == len(folders)
        if folders and distinct and len(matched) == len(folders):
            mapping = np.array([outputs[key(name)] for name in folders], dtype=np.int64)
            return ClassMatch(mapping, model_names, _name_notes(folders, model_names, mapping))
    if not matched:
        return None
    wrong = [name for name in folders if name not in matched] or sorted(set(folders) - set(model_names))
    close = {name: get_close_matches(name, model_names, n=1) for name in wrong[:5]}
    raise DataError(
        f"{len(wrong)} of {len(folders)} class folders are no classes of the checkpoint: {shortened(wrong)}",
        where="the class names",
        expected=f"names out of {shortened(model_names, 10)}",
        hint="rename or remove them; nearest names: "
        + (", ".join(f"{name} → {found[0]}" for name, found in close.items() if found) or "none"),
    )


def _name_notes(folders: tuple[str, ...], model_names: tuple[str, ...], mapping: NDArray[np.int64]) -> tuple[str, ...]:
    missing = [name for output, name in enumerate(model_names) if output not in set(mapping.tolist())]
    notes = {
        "the data's classes come in another order than the network's; they were matched by name": bool(
            (np.diff(mapping) < 0).any()
        ),
        f"{classes_have(len(missing), len(model_names))} no folder: {shortened(missing, 20)}": bool(missing),
        "the class names were matched without regard to case, spaces, hyphens, underscores, slashes, leading zeros and"
        " signs that are not seen": any(
            name != model_names[output] for name, output in zip(folders, mapping, strict=True)
        ),
    }
    return tuple(note for note, holds in notes.items() if holds)


def _by_stated_order(folders: tuple[str, ...], order: str, num_classes: int) -> ClassMatch:
    if len(folders) < num_classes:
        raise DataError(
            f"{len(folders)} class folders, but the network has {num_classes} outputs",
            where=f"--class-order {order}",
            expected="a folder for each class: the place in the order is the output",
            hint="give the names of all classes instead, --class-order FILE, or make (empty) folders for the others",
        )
    in_order = ORDERS[order](folders)
    mapping = np.array([in_order.index(name) for name in folders], dtype=np.int64)
    note = f"the class folders were mapped in {order} order, as stated: {shortened(in_order)}"
    return ClassMatch(mapping, tuple(in_order), (note,))


def _by_wordnet(folders: tuple[str, ...], num_classes: int) -> ClassMatch | None:
    found = [_WORDNET_ID.fullmatch(name) for name in folders]
    ids = [one[1].lower() for one in found if one]
    if num_classes != 1000 or not folders or len(set(ids)) < len(folders):
        return None
    imagenet = tuple(ImageNetInfo("imagenet-1k").label_names())
    unknown = [name for name, identity in zip(folders, ids, strict=True) if identity not in imagenet]
    if unknown and (len(folders) == num_classes or len(unknown) == len(folders)):
        return None  # of another set
    if unknown:
        raise DataError(
            f"{len(unknown)} of {len(folders)} class folders are WordNet ids that ImageNet-1k does not have: "
            f"{shortened(unknown)}",
            where="the class names",
            expected="ids of ImageNet-1k, as the others are",
            hint="remove these folders: the network has no output for them",
        )
    mapping = np.array([imagenet.index(identity) for identity in ids], dtype=np.int64)
    note = "the folders are WordNet ids; they were mapped in the order of ImageNet-1k"
    return ClassMatch(mapping, imagenet, (note,))


def _by_number(folders: tuple[str, ...], num_classes: int, model_names: tuple[str, ...] | None) -> ClassMatch | None:
    """Take folders that are all numbers 0..N-1, or all of 1..N, at their word."""
    if not folders or not all(name.isascii() and name.isdigit() for name in folders):
        return None
    numbers = np.array([int(name) for name in folders], dtype=np.int64)
    one_based = sorted(numbers.tolist()) == list(range(1, num_classes + 1))
    if len(set(numbers.tolist())) < len(numbers) or not (one_based or numbers.max() < num_classes):
        return None
    mapping = numbers - 1 if one_based else numbers
    names = model_names or _fill(folders, mapping, num_classes)
    start = "number 1 is the first output" if one_based else "number 0 is the first output"
    notes = (
        f"the class folders are numbers; they were mapped by number, not in text order ({start}); the accuracy tells if"
        " the network was trained in text order: --class-order text",
    )
    return ClassMatch(mapping, names, notes if one_based or (mapping != np.arange(len(mapping))).any() else ())


def _by_order(folders: tuple[str, ...], num_classes: int, model_names: tuple[str, ...] | None) -> ClassMatch:
    if model_names and folders and len(folders) < num_classes:
        raise DataError(
            f"none of the {len(folders)} class folders is a class of the checkpoint: {shortened(folders)}",
            where="the class names",
            expected=f"names out of {shortened(model_names, 10)}",
            hint="rename the class folders to the checkpoint's names",
        )
    if len(folders) == 1 and num_classes == 2:
        raise DataError(
            f"one class folder, {folders[0]!r}, but the network tells two classes apart",
            where="the class names",
            expected="two class folders, or one whose name the checkpoint knows",
            hint="give both classes a folder, named so that they sort in the order of training",
        )
    if not folders:
        note = "the data name no classes; their label numbers are taken as the network's outputs"
        names = model_names or tuple(map(str, range(num_classes)))
        return ClassMatch(np.arange(num_classes, dtype=np.int64), names, (note,))
    mapping = np.arange(len(folders), dtype=np.int64)
    subset = (
        f"{len(folders)} folders, the network has {num_classes} classes; folder i was taken for output i, which is"
        " right only if the missing classes are the last ones. The likely cause is a subset of the training classes:"
        " pass --class-order FILE with the names of all classes, or a checkpoint with class names"
    )
    warnings = {
        subset: len(folders) < num_classes,
        f"no class folder has a name that the checkpoint knows ({shortened(folders)} against "
        f"{shortened(model_names or ())}); they were taken in text order": bool(model_names),
        f"the class folders hold numbers, and text order puts {_first_apart(folders)}; a network that was trained in"
        " number order has another class order: --class-order number": not model_names
        and list(folders) == sorted(folders) != sorted(folders, key=natural),
    }
    names = model_names or _fill(folders, mapping, num_classes)
    return ClassMatch(mapping, names, (), tuple(text for text, holds in warnings.items() if holds))


def _first_apart(folders: tuple[str, ...]) -> str:
    """The first two of which text order and number order put another one first, such as "10 before 2"."""
    pairs = zip(sorted(folders), sorted(folders, key=natural), strict=True)
    return next((f"{text} before {number}" for text, number in pairs if text != number), "")


def _fill(folders: tuple[str, ...], mapping: NDArray[np.int64], num_classes: int) -> tuple[str, ...]:
    named = dict(zip(mapping.tolist(), folders, strict=True))
    return tuple(named.get(output, f"class {output}") for output in range(num_classes))


def accuracy_warning(confusion: NDArray[np.int64], class_names: Sequence[str] | None = None) -> str | None:
    """Say what is likely wrong where a network is no better than chance, or would be right under other class names.

    Args:
        confusion: (N,N) counts, true class × predicted class.
        class_names: (N,) to name classes in the text; numbers without.

    Returns:
        A text for the user, or None where nothing is suspicious.
    """
    total, present = int(confusion.sum()), int((confusion.sum(axis=1) > 0).sum())
    if total == 0 or len(confusion) < 2:
        return None
    names = list(class_names) if class_names is not None else [str(number) for number in range(len(confusion))]
    if said := order_warning(confusion, names):
        return ". ".join(said)
    accuracy = float(np.trace(confusion)) / total
    chance = 1 / (present if present > 1 else len(confusion))
    limit = min(chance + 3 * np.sqrt(chance * (1 - chance) / total), (1 + chance) / 2)
    if accuracy > limit:
        return None
    name, share = Counter(dict(zip(names, confusion.sum(axis=0).tolist(), strict=True))).most_common(1)[0]
    collapsed = f" {share / total:.0%} of the predictions are {name}." if share >= 0.9 * total else ""
    unclear = "no" if accuracy <= 1.1 * chance else f"on {counted(total, 'image')} not clearly"
    return (
        f"accuracy is {accuracy:.1%}, {unclear} better than chance ({chance:.1%}), and no other class order would help."
        f"{collapsed} Likely causes: other preprocessing than in training (mean, std, input size, channels), or"
        " weights that were not loaded or not trained"
    )


def order_warning(confusion: NDArray[np.int64], class_names: Sequence[str]) -> tuple[str, str] | None:
    """What was found, and what to do, where a network would be right under another order of its classes.

    Args:
        confusion: (N,N) counts, true class × predicted class.
        class_names: (N,).
    """
    total = int(confusion.sum())
    if total == 0 or len(confusion) < 2:
        return None
    accuracy = float(np.trace(confusion)) / total
    rows, columns = scipy.optimize.linear_sum_assignment(confusion, maximize=True)
    best = float(confusion[rows, columns].sum()) / total
    if best - accuracy < _PERMUTATION_GAIN or best <= _best_by_chance(confusion):
        return None
    if known := _known_order(confusion, class_names, best):
        kind, order = known
        return (
            f"accuracy is {accuracy:.1%}, but about {best:.1%} with the classes in {kind} ({shortened(order)})",
            f"The network was trained in that order: pass --class-order {kind.partition(' ')[0]}, or save it with the"
            " weights, torch.save({'state_dict': ..., 'class_to_idx': train_set.class_to_idx}, FILE)",
        )
    moved = [
        pair for pair in zip(rows.tolist(), columns.tolist(), strict=True) if pair[0] != pair[1] and confusion[pair]
    ]
    moved.sort(key=lambda pair: -int(confusion[pair]))
    pairs = ", ".join(
        f"images of {class_names[row]} are predicted as {class_names[column]}" for row, column in moved[:3]
    )
    return (
        f"accuracy is {accuracy:.1%}, but {best:.1%} if the classes were in another order: {pairs}",
        "The data's class order likely differs from the network's: pass --class-order with the names in the "
        "order of training, or a checkpoint with class names",
    )


def _known_order(confusion: NDArray[np.int64], class_names: Sequence[str], best: float) -> tuple[str, list[str]] | None:
    """The order, of the usual two, in which the network's answers are as right as in the best of all orders."""
    names, total = list(class_names), int(confusion.sum())
    orders = {
        "text order, as torchvision's ImageFolder sorts folders": ORDERS["text"](names),
        "number order": ORDERS["number"](names),
    }
    for kind, order in orders.items():
        right = sum(int(confusion[names.index(name), output]) for output, name in enumerate(order))
        if order != names and right / total > best - _ORDER_SLACK:
            return kind, order
    return None


def _best_by_chance(confusion: NDArray[np.int64]) -> float:
    """Return what reordering classes could give to predictions that know nothing: mean + 4 deviations, same margins."""
    tables, generator = scipy.stats.random_table(confusion.sum(axis=1), confusion.sum(axis=0)), np.random.default_rng(0)
    drawn = (tables.rvs(random_state=generator) for _ in range(_NULL_DRAWS))  # one at a time: each is (N,N)
    best = np.array([table[scipy.optimize.linear_sum_assignment(table, maximize=True)].sum() for table in drawn])
    return float(best.mean() + 4 * best.std()) / float(confusion.sum())
