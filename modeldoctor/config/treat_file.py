"""A treatment's YAML file: written with every key and its meaning, read with the changes of the command line."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from modeldoctor.config.treat import Metric, TreatConfig
from modeldoctor.errors import ConfigError
from modeldoctor.runtime.reading import SETTINGS_MOST, content, exists, plain_yaml

_MIB = 2**20
_TO_FILL = "???"


def load_treat_config(path: Path | None, changes: Sequence[str] = (), **values: Any) -> TreatConfig:
    """Read a treatment's YAML file.

    Args:
        path: the file; None begins with nothing. What it names is looked for beside it first.
        changes: `key.key=value` texts that replace what the file says; values are YAML.
        values: `key__key=value` that replace both; None is left out.

    Raises:
        ConfigError: the file or a change is not YAML, or a key or value is wrong.
    """
    where = str(path) if path else "the options"
    settings = read_mapping(path, _PATHS) if path else {}
    for change in changes:
        _set(settings, *_parsed(change))
    for key, value in values.items():
        if value is not None:
            _set(settings, key.replace("__", "."), value)
    _find_home(settings, _PATHS)
    refuse_unfilled(settings, where)
    _refuse_missing(settings, where)
    try:
        return TreatConfig(**settings)
    except (ValidationError, TypeError) as error:
        problems = "; ".join(_problems(error)) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(
            problems, where=where, hint="`modeldoctor config` prints every key with its default"
        ) from error


def _refuse_missing(settings: Mapping[str, Any], where: str) -> None:
    """Name in a user's words what nothing can take the place of."""
    data = settings.get("data")
    given = {"checkpoint": "checkpoint" in settings, "data": "path" in data if isinstance(data, dict) else data}
    if missing := [name for name, there in given.items() if not there]:
        raise ConfigError(
            f"no {' and no '.join(missing)} given",
            where=where,
            expected="modeldoctor treat CHECKPOINT --data DIR, or a file that names both",
            hint="`modeldoctor config` prints such a file",
        )


_PATHS = (
    "checkpoint", "network.arch", "network.class_order", "diagnosis", "data.path", "data.root", "data.masks",
    "data.groups", "output",
)  # fmt: skip


def read_mapping(path: Path, paths: Sequence[str]) -> dict[str, Any]:
    """The keys and values of a YAML file; what it names is looked for beside it first.

    Args:
        path: the file.
        paths: the keys, with dots, whose values are paths.

    Raises:
        ConfigError: it is not YAML, or no keys and values.
    """
    try:
        settings = plain_yaml(content(path, SETTINGS_MOST).decode())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no readable YAML: {error}", where=str(path), expected="a file as `modeldoctor config` prints it"
        ) from error
    if not isinstance(settings, dict):
        raise ConfigError(f"a {type(settings).__name__}", where=str(path), expected="keys and values")
    _find_beside(settings, path.parent, paths)
    _find_home(settings, paths)
    return settings


def refuse_unfilled(content: dict[str, Any], where: str) -> None:
    """Refuse a configuration that still has a place holder.

    Raises:
        ConfigError: which keys have one.
    """
    if unfilled := list(_unfilled(content)):
        raise ConfigError(
            f"{' and '.join(unfilled)} {'is' if len(unfilled) == 1 else 'are'} not filled in ({_TO_FILL})",
            where=where,
            hint="write the values in their places",
        )


def _find_beside(content: dict[str, Any], folder: Path, paths: Sequence[str]) -> None:
    """Paths count from the file's folder where something is there, else from where the command runs."""
    for holder, key in _named(content, paths):
        file, function = _file_and_function(holder[key])
        if exists(folder / file):
            holder[key] = _shortest(folder / file) + function


def _find_home(content: dict[str, Any], paths: Sequence[str]) -> None:
    """`~/` is the user's home: in a file, and behind `key=`, no shell sees it. A folder of that name comes first."""
    for holder, key in _named(content, paths):
        if holder[key].startswith("~") and not exists(Path(_file_and_function(holder[key])[0])):
            holder[key] = str(Path(holder[key]).expanduser())


def _named(content: dict[str, Any], keys: Sequence[str]) -> Iterator[tuple[dict[str, Any], str]]:
    """The mappings and their keys that hold a path, of keys with dots."""
    for key in keys:
        *parents, last = key.split(".")
        holder: Any = content
        for parent in parents:
            holder = holder.get(parent) if isinstance(holder, dict) else None
        if isinstance(holder, dict) and isinstance(holder.get(last), str) and holder[last]:
            yield holder, last


def _file_and_function(value: str) -> tuple[str, str]:
    """`network.py` and `:make_model`; of a path alone, it and nothing."""
    file, ending, function = value.partition(".py:")
    return (f"{file}.py", f":{function}") if ending else (value, "")


def _shortest(path: Path) -> str:
    """A path without the detours `..`, from where the command runs if it lies below."""
    if ".." not in path.parts:
        return str(path)
    real = path.parent.resolve() / path.name
    here = Path.cwd().resolve()
    return str(real.relative_to(here) if real.is_relative_to(here) else real)


def written_yaml(config: TreatConfig) -> str:
    """A configuration as it is kept in its output: relative paths that exist count from there.

    So it means the same wherever it is read from, and a folder that holds its inputs, too, can be moved.
    """
    settings = config.model_dump(mode="json")
    home = config.output.resolve()
    for holder, key in _named(settings, _PATHS):
        file, function = _file_and_function(holder[key])
        path = Path(file)
        if path == config.output or (not path.is_absolute() and exists(path)):
            holder[key] = os.path.relpath(path.parent.resolve() / path.name, home) + function
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def _unfilled(content: dict[str, Any], above: str = "") -> Iterator[str]:
    """The keys that still have the place holder of `modeldoctor config`."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _unfilled(value, f"{above}{key}.")
        elif value == _TO_FILL:
            yield f"{above}{key}"


def commented_yaml(model: type[BaseModel] = TreatConfig, indent: str = "") -> str:
    """Every key of a configuration with its default, what it means, and its range, as a YAML file."""
    lines: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            lines += [
                _comment(inner.__doc__ or "", indent),
                f"{indent}{name}:",
                commented_yaml(inner, indent + "  "),
            ]
            continue
        ranges = ", ".join(_range(field.metadata))
        lines.append(_comment((field.description or "") + (f" ({ranges})" if ranges else ""), indent))
        if field.is_required():
            lines.append(f"{indent}{name}: {_TO_FILL}")
        else:
            extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
            default = str(field.default) if isinstance(field.default, Path | Metric) else field.default
            default = extra.get("printed", default)
            default = list(default) if isinstance(default, tuple) else default
            text = yaml.safe_dump(default, default_flow_style=True).strip().removesuffix("...").strip()
            lines.append(f"{indent}{name}: {text}")
    return "\n".join(lines)


def _comment(text: str, indent: str) -> str:
    mark = f"{indent}# "
    return textwrap.fill(text, 120, initial_indent=mark, subsequent_indent=mark, break_on_hyphens=False)


def _range(metadata: Sequence[Any]) -> Iterator[str]:
    for mark, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        for field in metadata:
            if getattr(field, mark, None) is not None:
                bound = getattr(field, mark)
                yield f"{sign} {bound}" if bound < _MIB else f"{sign} {bound // _MIB} MiB"


def _parsed(change: str) -> tuple[str, Any]:
    try:
        return key_and_value(change)
    except ValueError as error:
        raise ConfigError(str(error), where=f"--set {change}", expected="key.key=value") from error


def key_and_value(text: str) -> tuple[str, Any]:
    """The two sides of `key=value`, the value read as YAML.

    Raises:
        ValueError: there is no value, or it is no YAML.
    """
    key, sign, value = text.partition("=")
    if not sign:
        raise ValueError(f"{text!r} has no value")
    try:
        return key.strip(), plain_yaml(value)
    except ValueError as error:
        raise ValueError(f"no readable YAML: {error}") from error


def _set(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        content = content.setdefault(parent, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{parent} holds no keys", where=key, expected="key.key=value")
    content[last] = value


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"] if part not in ("float", "literal['auto']"))
        near = ""
        if problem["type"] == "extra_forbidden":
            known = _keys_beside(problem["loc"])
            close = get_close_matches(str(problem["loc"][-1]), known, n=1, cutoff=0.0)
            near = f" (nearest: {close[0]})" if close else ""
        yield f"{key or 'the configuration'}: {problem['msg']}{near}"


def _keys_beside(loc: tuple[int | str, ...]) -> list[str]:
    fields: Mapping[str, Any] = TreatConfig.model_fields
    for part in loc[:-1]:
        fields = getattr(fields[str(part)].annotation, "model_fields", {}) if str(part) in fields else {}
    return list(fields)
