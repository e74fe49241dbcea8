"""What is the matter with the whole network and its data, and what to do about it: findings, the first step first.

Shapes: S samples, N classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from modeldoctor.data import ImageSet, order_warning
from modeldoctor.data.duplicates import find_duplicates
from modeldoctor.data.outputs import AnySet
from modeldoctor.diagnosis.alternatives import best_of, is_better, option_of
from modeldoctor.diagnosis.compare import Compared
from modeldoctor.diagnosis.explain import Evidence
from modeldoctor.diagnosis.faulty import FaultyKernel
from modeldoctor.diagnosis.inseparable import inseparable_pairs
from modeldoctor.diagnosis.passes import Run
from modeldoctor.diagnosis.rare import rare_classes
from modeldoctor.diagnosis.slices import Slice, find_confusions
from modeldoctor.errors import counted, shortened
from modeldoctor.results.diagnosis import Finding, LayerDiagnosis, Misdiagnosis, Samples, Verdict
from modeldoctor.results.summary import count_pairs

_EXAMPLES = 20
_WRONG_REASON = 1 / 3
_CONFUSED = 0.15
_PAIRS = 2


def find_findings(
    run: Run,
    classes: tuple[str, ...],
    sets: Sequence[AnySet],
    samples: Samples,
    first_row: int,
    images: Sequence[Misdiagnosis],
    references: Sequence[Evidence],
    compared: Compared,
    deepest: LayerDiagnosis,
) -> tuple[Finding, ...]:
    """Everything that was found: first what makes all other figures doubtful, then by wrong images, most first.

    Args:
        classes: names.
        sets: the split of the class correlation and the examined one; perhaps the same.
        samples: what was looked at.
        first_row: of the examined split among them.
        images: the wrong images that were explained.
        references: right, confident images that were explained beside them.
        compared: kernels that do more harm than good, and groups of images that are worse than the rest.
        deepest: the examined layer.
    """
    _, label, predicted, _ = run.state.predictions[sets[-1].split].table()
    wrong = int((label != predicted).sum())
    standing_for = how_many(images, label[label != predicted])
    setup = [*_preprocessing(run, len(label), wrong), *_class_order(label, predicted, classes, wrong)]
    setup += _duplicates(run, sets, first_row)
    single = [
        *_wrong_reason(references, images, classes, standing_for),
        *_faulty_kernels(compared.faulty, images, standing_for),
        *_slices(compared.slices),
        *(_rare(sets[0], label, predicted, classes, first_row) if sets[0] is not sets[-1] else ()),
        *_confusions(label, predicted, classes, first_row),
        *_labels(images, classes, label, standing_for),
        *_counted(images, standing_for),
        *_confused(label, predicted, classes, deepest, run.config.threshold, first_row),
        *_inseparable(label, predicted, classes, deepest, run.config.threshold, first_row),
    ]
    return (*setup, *sorted(single, key=lambda finding: -finding.wrong))


StandingFor = Callable[[Sequence[Misdiagnosis]], int]


def how_many(images: Sequence[Misdiagnosis], wrong: NDArray[np.int64]) -> StandingFor:
    """How many wrong images some of the explained ones stand for: each for as many of its class, alike.

    Of every class one is explained first, so that rare classes have more of these than of all wrong images.

    Args:
        images: the wrong images that were explained.
        wrong: (W,) the labels of all wrong images; of classes without an explained one they are shared out over all.
    """
    of_class, explained = Counter(wrong.tolist()), Counter(image.label for image in images)
    share = len(wrong) / max(1, sum(of_class[label] for label in explained))
    return lambda some: round(share * sum(of_class[image.label] / explained[image.label] for image in some))


def _preprocessing(run: Run, total: int, wrong: int) -> Iterator[Finding]:
    """The alternative that turns most images right, where that is no chance."""
    name = best_of(run.state.alternatives)
    if name is None or not is_better(*run.state.alternatives[name]):
        return
    gained, lost, number = run.state.alternatives[name]
    option = option_of(name)
    yield Finding(
        name="preprocessing",
        sentence=f"With {name}, {gained} of {number} images that are wrong now are right, and {lost} turn wrong: the "
        "network was likely trained with that",
        action="diagnose again with the preprocessing of training" + (f": {option}" if option else ""),
        command=option,
        wrong=min(wrong, round((gained - lost) / number * total)),
    )


def _class_order(
    label: NDArray[np.int64], predicted: NDArray[np.int64], classes: tuple[str, ...], wrong: int
) -> Iterator[Finding]:
    if said := order_warning(count_pairs(label, predicted, len(classes)), classes):
        sentence, action = said
        yield Finding(name="class-order", sentence=sentence, action=action, wrong=wrong)


def _duplicates(run: Run, sets: Sequence[AnySet], first_row: int) -> Iterator[Finding]:
    found, sought = find_duplicates(sets[0], sets[-1], run.config.seed)
    if found:
        index = run.state.predictions[sets[-1].split].table()[0]
        rows = first_row + np.searchsorted(index, np.intersect1d(found, index))
        yield Finding(
            name="duplicates",
            sentence=f"{len(found)} of {sought} images of {sets[-1].split} that were looked for are also in "
            f"{sets[0].split}, byte for byte: its accuracy is too good",
            action=f"take them out of one of the two splits, and train and examine again: {sets[-1].split} should hold "
            "nothing that was trained on",
            wrong=0,
            samples=tuple(rows[:_EXAMPLES].tolist()),
        )


def _wrong_reason(
    references: Sequence[Evidence],
    images: Sequence[Misdiagnosis],
    classes: tuple[str, ...],
    standing_for: StandingFor,
) -> Iterator[Finding]:
    """Right predictions that stay the same without their object."""
    tried = [evidence for evidence in references if not np.isnan(evidence.stays_without_object)]
    background = [image for image in images if image.verdict is Verdict.BACKGROUND]
    share = float(np.mean([evidence.stays_without_object for evidence in tried])) if tried else 0.0
    if share < _WRONG_REASON and not background:
        return
    by_class = {
        name: [evidence.stays_without_object for evidence in tried if evidence.label == number]
        for number, name in enumerate(classes)
    }
    means = sorted(((float(np.mean(of)), name) for name, of in by_class.items() if len(of) >= 3), reverse=True)
    worst = f"; most of all {means[0][1]}: {means[0][0]:.0%}" if means and means[0][0] > 0 else ""
    yield Finding(
        name="background",
        sentence=f"With the object removed {share:.0%} of {len(tried)} right, confident predictions stay the same"
        f"{worst}; {len(background)} of {len(images)} wrong images are misled by their background",
        action="treat with object masks (the space constraint), or collect images of each class before other "
        "backgrounds",
        command="modeldoctor treat CKPT --data DIR --masks MASKS",
        wrong=standing_for(background),
        samples=tuple(image.sample for image in background[:_EXAMPLES]),
    )


def _faulty_kernels(
    faulty: Sequence[FaultyKernel], images: Sequence[Misdiagnosis], standing_for: StandingFor
) -> Iterator[Finding]:
    for kernel in faulty:
        of_kernel = [image for image in images if image.faulty_kernel == kernel.channel]
        yield Finding(
            name="foreign-kernels",
            sentence=f"Without kernel {kernel.channel} of the features, {kernel.mended} of {len(images)} wrong images "
            f"that were explained turn right, and {kernel.broken} of {kernel.looked_at_right} right ones turn wrong",
            action="fine-tune, or set that kernel's weights in the head to zero and refit the head",
            wrong=standing_for(of_kernel),
            samples=tuple(image.sample for image in of_kernel[:_EXAMPLES]),
        )


def _slices(slices: Sequence[Slice]) -> Iterator[Finding]:
    for part in slices:
        yield Finding(
            name="slice",
            sentence=f"Of {part.name} about {part.rate:.0%} are wrong ({part.low:.0%} to {part.high:.0%}), of all "
            f"others {part.rest:.0%}; {part.looked_at} groups were looked at, and the interval allows for that",
            action="look at these images for what they have in common: collect and label more of their kind, or reject "
            "them before the network",
            wrong=part.excess,
            samples=tuple(part.rows[:_EXAMPLES].tolist()),
        )


def _labels(
    images: Sequence[Misdiagnosis],
    classes: tuple[str, ...],
    label: NDArray[np.int64],
    standing_for: StandingFor,
) -> Iterator[Finding]:
    suspects = [image for image in images if image.verdict is Verdict.MISLABELLED]
    if not suspects:
        return
    suspects.sort(key=lambda image: -image.label_doubt)
    counts = Counter(image.label for image in suspects)
    number, most = counts.most_common(1)[0]
    of_class = int((label == number).sum())
    yield Finding(
        name="mislabelled",
        sentence=f"Of {counted(len(images), 'wrong image')} {len(suspects)} "
        f"{'look' if len(suspects) > 1 else 'looks'} mislabelled, most of them labelled {classes[number]} "
        f"({most} of its {counted(of_class, 'image')})",
        action="look at them, in the table NAME.suspects.csv beside the diagnosis NAME.h5, and correct the labels that "
        "are wrong",
        wrong=standing_for(suspects),
        samples=tuple(image.sample for image in suspects[:_EXAMPLES]),
    )


_SINGLE = {
    Verdict.DAMAGED: (
        ("is", "are"),
        "darker, brighter, blurrier, noisier ... than the training images",
        "train with such images or with augmentation that makes them, or reject them before the network",
    ),
    Verdict.UNFAMILIAR: (
        ("is", "are"),
        "like no training image",
        "look at them: collect and label images of this kind, or reject them before the network",
    ),
    Verdict.ISOLATED: (
        ("turns", "turn"),
        "to the label when slightly altered, as adversarial images do",
        "look at how these images came about; train with noise or adversarial images if they are to be expected",
    ),
}


def _counted(images: Sequence[Misdiagnosis], standing_for: StandingFor) -> Iterator[Finding]:
    for verdict, (verbs, sentence, action) in _SINGLE.items():
        found = [image for image in images if image.verdict is verdict]
        if found:
            yield Finding(
                name=str(verdict),
                sentence=f"Of {counted(len(images), 'wrong image')} {len(found)} {verbs[len(found) > 1]} {sentence}",
                action=action,
                wrong=standing_for(found),
                samples=tuple(image.sample for image in found[:_EXAMPLES]),
            )


def _taken_for_each_other(
    label: NDArray[np.int64], predicted: NDArray[np.int64], one: int, other: int
) -> NDArray[np.int64]:
    """Rows of the images of either class that are taken for the other."""
    return np.flatnonzero(((label == one) & (predicted == other)) | ((label == other) & (predicted == one)))


def _shared_kernels(layer: LayerDiagnosis, threshold: float, one: int, other: int) -> str:
    """How many kernels two classes share, as the end of a sentence; empty where they have none."""
    first, second = layer.correlated(threshold)[[one, other]]
    union = int((first | second).sum())
    return f"; of their kernels at {layer.name} they share {int((first & second).sum())} of {union}" if union else ""


def _inseparable(
    label: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: tuple[str, ...],
    deepest: LayerDiagnosis,
    threshold: float,
    first_row: int,
) -> Iterator[Finding]:
    for pair in inseparable_pairs(count_pairs(label, predicted, len(classes)))[:_PAIRS]:
        rows = _taken_for_each_other(label, predicted, pair.one, pair.other)
        yield Finding(
            name="inseparable",
            sentence=f"{classes[pair.one]} and {classes[pair.other]} are hardly told apart: of their images "
            f"that are taken for one of the two, {pair.right:.0%} are right (at most {pair.high:.0%}; a coin: 50%)"
            f"{_shared_kernels(deepest, threshold, pair.one, pair.other)}",
            action="ask a person to tell some of these images apart: if nobody can, merge the two classes or correct "
            "how they were labelled; else train with more images of the two",
            wrong=pair.errors,
            samples=tuple((first_row + rows[:_EXAMPLES]).tolist()),
        )


def _most_confused(label: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> tuple[int, int, int] | None:
    """Two of at least three classes and how many of their images are taken for the other; None where these are few."""
    counts = count_pairs(label, predicted, classes)
    both = np.triu(counts + counts.T, 1)
    one, other = (int(place) for place in np.unravel_index(int(both.argmax()), both.shape))
    count = int(both[one, other])
    if classes < 3 or count < max(5, _CONFUSED * int(both.sum())):
        return None
    return one, other, count


def _rare(
    source: AnySet, label: NDArray[np.int64], predicted: NDArray[np.int64], classes: tuple[str, ...], first_row: int
) -> Iterator[Finding]:
    """Classes of few training images that are worse than the others; of a stream no count is known."""
    if not isinstance(source, ImageSet):
        return
    trained = np.bincount(np.asarray(source.labels, dtype=np.int64), minlength=len(classes))
    found, usual = rare_classes(trained, count_pairs(label, predicted, len(classes)))
    if not found:
        return
    each = [
        f"{classes[rare.label]} ({counted(rare.trained, 'image')}; {rare.right} of {rare.examined} examined ones right)"
        for rare in found
    ]
    rows = np.flatnonzero(np.isin(label, [rare.label for rare in found]) & (label != predicted))
    yield Finding(
        name="rare",
        sentence=f"Rare in {source.split}, and right less often than the other classes ({usual:.0%}): "
        f"{shortened(each, 3)}",
        action="let classes come equally often in training, or collect more images of the rare ones",
        command="modeldoctor treat CKPT --data DIR --set 'arms=[balanced,continue]' --set metric=worst_class",
        wrong=sum(rare.excess for rare in found),
        samples=tuple((first_row + rows[:_EXAMPLES]).tolist()),
    )


def _confusions(
    label: NDArray[np.int64], predicted: NDArray[np.int64], classes: tuple[str, ...], first_row: int
) -> Iterator[Finding]:
    """Classes that are taken for another far more often than the others are, where nothing else tells of the two."""
    counts = count_pairs(label, predicted, len(classes))
    told = [frozenset((pair.one, pair.other)) for pair in inseparable_pairs(counts)[:_PAIRS]]
    if pair := _most_confused(label, predicted, len(classes)):
        told.append(frozenset(pair[:2]))
    for found in find_confusions(counts, told):
        rows = first_row + np.flatnonzero((label == found.own) & (predicted == found.taken_for))
        yield Finding(
            name="slice",
            sentence=f"Of the images of {classes[found.own]} {found.share:.0%} are taken for "
            f"{classes[found.taken_for]} ({found.low:.0%} to {found.high:.0%}), of those of all other classes "
            f"{found.rest:.0%}; {found.looked_at} pairs were looked at, and the interval allows for that",
            action="look at these images for what they have in common: collect and label more of the two classes",
            wrong=found.excess,
            samples=tuple(rows[:_EXAMPLES].tolist()),
        )


def _confused(
    label: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: tuple[str, ...],
    deepest: LayerDiagnosis,
    threshold: float,
    first_row: int,
) -> Iterator[Finding]:
    """The pair of classes with most confusions, where it holds a good part of all of them."""
    pair = _most_confused(label, predicted, len(classes))
    if pair is None:
        return
    one, other, count = pair
    wrong = int((label != predicted).sum())
    yield Finding(
        name="confused",
        sentence=f"{classes[one]} and {classes[other]} are taken for each other in {count} of {wrong} wrong images"
        f"{_shared_kernels(deepest, threshold, one, other)}",
        action="look at these images side by side: if a person cannot tell them apart, neither labels nor network "
        "will; else collect more images of the two",
        wrong=count,
        samples=tuple((first_row + _taken_for_each_other(label, predicted, one, other)[:_EXAMPLES]).tolist()),
    )
