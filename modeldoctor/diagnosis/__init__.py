"""From a network and images to a diagnosis: which kernels does each class depend on, and why are images wrong?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modeldoctor.config import DiagnoseConfig
from modeldoctor.correlation import compute_state
from modeldoctor.data import ImageSet, accuracy_warning, choose_confident, match_classes, open_data
from modeldoctor.diagnosis.passes import (
    AnySet,
    Progress,
    Run,
    correlate,
    delta_of,
    examine,
    example_images,
    measure_scales,
    predict,
)
from modeldoctor.diagnosis.state import RunState, fingerprint_of
from modeldoctor.errors import ModelDoctorWarning, UsageError
from modeldoctor.explain import Evidence, Probe, find_limits, judge
from modeldoctor.files import check_writable
from modeldoctor.graph import HookedNetwork, Layer, LayeredNetwork, open_network, select_layers
from modeldoctor.interrupts import graceful_stop
from modeldoctor.records import Diagnosis, LayerDiagnosis, Samples
from modeldoctor.store import write_diagnosis
from modeldoctor.zoo import Network

_REFERENCES = 200


def diagnose(
    network: Network,
    data: str | Path | Mapping[str, AnySet],
    *,
    config: DiagnoseConfig | None = None,
    root: Path | None = None,
    download: bool = False,
    masks: Path | None = None,
    output: Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> Diagnosis:
    """Measure the class correlations of a network (Eq. 2-4) and explain its wrong predictions.

    Args:
        network: from `load_model`; its module is moved to the device and otherwise left as it was.
        data: a folder, CSV or data set's name as in `open_data`, or the splits that it returned.
        config: what is measured, and how.
        root, download, masks: as in `open_data`.
        output: write the diagnosis here (HDF5); an interrupted run's state is kept beside it.
        resume: go on with the interrupted run whose state lies beside `output`.
        progress: called with (stage, done, total or None).

    Returns:
        The diagnosis; class correlations are NaN, with count 0, for a class without right, confident images.

    Raises:
        DataError: the images cannot be used.
        UsageError: a split or layer does not exist, or the output cannot be written.
        StoreError: the state to resume is of another run.
        InterruptedRunError: Ctrl-C; what was done is kept beside `output`.
    """
    config = config or DiagnoseConfig()
    if output is not None:
        check_writable(Path(output))
    splits = open_data(str(data), preprocessing=network.preprocessing, root=root, download=download, masks=masks) \
        if isinstance(data, str | Path) else dict(data)  # fmt: skip
    with _recorded_warnings() as said, graceful_stop() as stop, _in_eval_mode(network.module):
        device = resolve_device(config.device)
        splits, classes = _match(network, splits)
        source, examined = _splits_to_use(splits, config)
        layered = _take_apart(network, example_images(network.preprocessing, device), config, device)
        layers = select_layers(layered.layers, config.layers)
        state, state_path = _state(network, config, {source.split: source, examined.split: examined}, output, resume)
        run = Run(
            network=layered,
            layers=layers,
            config=config,
            classes=network.num_classes,
            device=device,
            state=state,
            state_path=state_path,
            progress=progress or (lambda stage, done, total: None),
            stop=stop,
        )
        for one in _distinct(source, examined):
            predict(run, one)
            _warn_of_accuracy(run, one, classes)
        measure_scales(run, source)
        chosen = _choose(run, source, classes)
        correlate(run, source, chosen)
        found = {layer.name: _layer_diagnosis(run, layer) for layer in layers}
        diagnosis = _explain(run, source, examined, chosen, found, network, classes, said)
    if output is not None:
        write_diagnosis(diagnosis, Path(output))
        if state_path is not None:
            state_path.unlink(missing_ok=True)
    return diagnosis


def list_layers(network: Network, config: DiagnoseConfig | None = None) -> tuple[Layer, ...]:
    """The selected layers of a network, in execution order, with shapes and cost; no image is read."""
    config = config or DiagnoseConfig()
    device = resolve_device(config.device)
    example = example_images(network.preprocessing, device)
    with _in_eval_mode(network.module):
        return select_layers(_take_apart(network, example, config, device).layers, config.layers)


def resolve_device(name: str) -> torch.device:
    """`auto`, or a device's name.

    Raises:
        UsageError: there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}",
            where="--device",
            expected="auto, cpu, cuda or cuda:N",
        ) from error
    return device


def _match(network: Network, splits: Mapping[str, AnySet]) -> tuple[dict[str, AnySet], tuple[str, ...]]:
    matched: dict[str, AnySet] = {}
    names: tuple[str, ...] = ()
    said: set[str] = set()
    for split, images in splits.items():
        match = match_classes(images.class_names, network.class_names, network.num_classes)
        for text in (*match.notes, *match.warnings):
            if text not in said:
                warnings.warn(text, ModelDoctorWarning, stacklevel=3)
                said.add(text)
        matched[split], names = images.with_classes(match), names or match.names
        matched[split].split = split  # the user may have put splits of several sources together
    return matched, names


def _splits_to_use(splits: Mapping[str, AnySet], config: DiagnoseConfig) -> tuple[AnySet, AnySet]:
    """The split for the class correlation and the split to examine; the test split only where it is asked for."""

    def pick(asked: str | None, option: str, preferred: str, default: str) -> str:
        if asked is not None and asked not in splits:
            raise UsageError(f"there is no split {asked!r}", where=option, expected=f"one of {', '.join(splits)}")
        return asked or (preferred if preferred in splits else default)

    source = pick(config.split, "--split", "train", next(iter(splits)))
    examined = pick(config.examine, "--examine", "val", source)
    return splits[source], splits[examined]


def _take_apart(
    network: Network, example: torch.Tensor, config: DiagnoseConfig, device: torch.device
) -> LayeredNetwork:
    module = network.module.to(device)
    return HookedNetwork(module, example) if config.hooks else open_network(module, example, config.layers)


def _state(
    network: Network, config: DiagnoseConfig, used: Mapping[str, AnySet], output: Path | None, resume: bool
) -> tuple[RunState, Path | None]:
    ignored = {"batch_size", "workers", "device"}
    labels = [np.asarray(one.labels).tobytes() if one.labels is not None else b"stream" for one in used.values()]
    paths = [
        "\n".join(one.paths).encode(errors="surrogateescape") if one.labels is not None else b""
        for one in used.values()
    ]
    fingerprint = fingerprint_of(
        config.model_dump(exclude=ignored),
        network.checkpoint_sha256,
        network.arch,
        network.preprocessing.model_dump(),
        list(used),
        [isinstance(one, ImageSet) and one.masks is not None for one in used.values()],
        *labels,
        *paths,
    )
    if output is None:
        return RunState(fingerprint), None
    path = Path(output).with_name(f"{Path(output).name}.partial")
    if resume and path.exists():
        return RunState.load(path, fingerprint), path
    return RunState(fingerprint), path


def _distinct(source: AnySet, examined: AnySet) -> list[AnySet]:
    return [source] if source is examined else [source, examined]


def _warn_of_accuracy(run: Run, images: AnySet, classes: tuple[str, ...]) -> None:
    _, label, predicted, _ = run.state.predictions[images.split].table()
    broken = run.state.predictions[images.split].broken
    confusion = np.zeros((run.classes, run.classes), dtype=np.int64)
    np.add.at(confusion, (label, predicted), 1)
    text = accuracy_warning(confusion, classes)
    if text:
        warnings.warn(f"{images.split}: {text}", ModelDoctorWarning, stacklevel=3)
    if broken:
        first = "; ".join(f"{path} ({reason})" for path, reason in broken[:3])
        warnings.warn(
            f"{images.split}: {len(broken)} images cannot be read and are left out: {first}"
            + (" ..." if len(broken) > 3 else ""),
            ModelDoctorWarning,
            stacklevel=3,
        )


def _choose(run: Run, images: AnySet, classes: tuple[str, ...]) -> NDArray[np.int64]:
    """T right, confident images a class, ascending; warns of classes that have fewer."""
    config = run.config
    index, label, predicted, confidence = run.state.predictions[images.split].table()
    rows = choose_confident(
        label,
        predicted,
        confidence,
        per_class=config.samples_per_class,
        threshold=config.min_confidence,
        seed=config.seed,
        num_classes=run.classes,
    )
    few = [f"{classes[n]} ({len(one)})" for n, one in enumerate(rows) if len(one) < config.samples_per_class]
    if few:
        warnings.warn(
            f"{len(few)} of {run.classes} classes have fewer than {config.samples_per_class} images predicted right "
            f"with confidence >= {config.min_confidence}: {', '.join(few[:5])}{' ...' if len(few) > 5 else ''}; "
            "what there is was used",
            ModelDoctorWarning,
            stacklevel=3,
        )
    return np.sort(index[np.concatenate(rows)]) if rows else np.empty(0, dtype=np.int64)


def _layer_diagnosis(run: Run, layer: Layer) -> LayerDiagnosis:
    figures = compute_state(run.state.correlations[layer.name])
    arrays = {name: value.numpy().astype(np.float32) for name, value in figures._asdict().items() if name != "counts"}
    place = {key: value for key, value in asdict(layer).items() if key != "bytes_after"}
    return LayerDiagnosis(
        **place,
        delta=delta_of(run, layer),
        activation_std=run.state.scales[layer.name],
        count=figures.counts.numpy().astype(np.int32),
        **arrays,
    )


def _explain(
    run: Run,
    source: AnySet,
    examined: AnySet,
    used: NDArray[np.int64],
    found: dict[str, LayerDiagnosis],
    network: Network,
    classes: tuple[str, ...],
    said: list[str],
) -> Diagnosis:
    samples, first_row = _samples(run, _distinct(source, examined), source.split, used)
    index, label, predicted, confidence = run.state.predictions[examined.split].table()
    row_of = {int(image): first_row[examined.split] + row for row, image in enumerate(index)}
    wrong = index[label != predicted]
    references = _references(run, label, predicted, confidence, index)
    rng = np.random.default_rng([run.config.seed, 1])
    few = (
        wrong if len(wrong) <= run.config.max_explained else rng.choice(wrong, run.config.max_explained, replace=False)
    )
    last = run.layers[-1]
    probe = Probe(
        layers=run.layers,
        scales=run.state.scales,
        profile=found[last.name],
        threshold=run.config.threshold,
        noise_ranges=run.config.noise_ranges,
        draws=run.config.noise_draws,
        delta=delta_of(run, last),
        seed=run.config.seed,
        rows={layer.name: run.rows(layer) for layer in run.layers},
    )
    examine(run, examined, np.sort(np.concatenate([few, references])), row_of, probe)
    gathered = [Evidence(**one) for one in run.state.evidence]
    for one in gathered:
        samples.stability[one.sample] = one.stability
    limits = find_limits([one for one in gathered if one.label == one.predicted], probe)
    verdicts = tuple(judge(one, limits, probe) for one in gathered if one.label != one.predicted)
    return Diagnosis(
        arch=network.arch,
        checkpoint_sha256=network.checkpoint_sha256,
        classes=classes,
        layers=found,
        samples=samples,
        misdiagnosed=verdicts,
        limits=limits,
        wrong=len(wrong),
        examined=examined.split,
        broken=tuple(pair for one in run.state.predictions.values() for pair in one.broken),
        warnings=tuple(said),
        seed=run.config.seed,
        config=run.config.model_dump(mode="json"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        device=str(run.device),
        versions=_versions(),
    )


def _samples(run: Run, sets: list[AnySet], source: str, used: NDArray[np.int64]) -> tuple[Samples, dict[str, int]]:
    """Every image that was read, split after split, and the row at which each split begins."""
    tables = [run.state.predictions[one.split].table() for one in sets]
    starts = np.cumsum([0, *(len(table[0]) for table in tables)])
    path = np.array(
        [one.paths[i].encode(errors="surrogateescape") for one, t in zip(sets, tables, strict=True) for i in t[0]]
    )
    return Samples(
        split=np.repeat(np.arange(len(sets), dtype=np.int32), np.diff(starts)),
        splits=tuple(one.split for one in sets),
        path=path,
        label=np.concatenate([table[1] for table in tables]).astype(np.int32),
        predicted=np.concatenate([table[2] for table in tables]).astype(np.int32),
        confidence=np.concatenate([table[3] for table in tables]),
        used_in_diagnosis=np.concatenate(
            [np.isin(t[0], used) & (one.split == source) for one, t in zip(sets, tables, strict=True)]
        ),
        stability=np.full((starts[-1], len(run.config.noise_ranges)), np.nan, dtype=np.float32),
        noise_ranges=np.array(run.config.noise_ranges, dtype=np.float32),
    ), {one.split: int(start) for one, start in zip(sets, starts, strict=False)}


def _references(
    run: Run,
    label: NDArray[np.int64],
    predicted: NDArray[np.int64],
    confidence: NDArray[np.float32],
    index: NDArray[np.int64],
) -> NDArray[np.int64]:
    rows = choose_confident(
        label,
        predicted,
        confidence,
        per_class=max(1, _REFERENCES // run.classes),
        threshold=run.config.min_confidence,
        seed=run.config.seed + 1,
        num_classes=run.classes,
    )
    return index[np.concatenate(rows)]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("modeldoctor", "torch", "torchvision", "timm")}


@contextmanager
def _in_eval_mode(module: torch.nn.Module) -> Iterator[None]:
    """While this lasts, the whole network is in eval mode."""
    training = [one for one in module.modules() if one.training]
    try:
        module.eval()
        yield
    finally:
        for one in training:
            one.training = True


@contextmanager
def _recorded_warnings() -> Iterator[list[str]]:
    """Note the texts of our warnings while they go where they always go."""
    said: list[str] = []
    show: Callable[..., Any] = warnings.showwarning

    def record(message: Warning | str, category: type[Warning], *args: Any, **kwargs: Any) -> None:
        if issubclass(category, ModelDoctorWarning):
            said.append(str(message))
        show(message, category, *args, **kwargs)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ModelDoctorWarning)
        warnings.showwarning = record
        yield said
