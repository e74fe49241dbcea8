"""Which versions a result was made with."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

DISTRIBUTION = "modeldoctor-vision"
"""The name under which the package is installed; `modeldoctor` on PyPI is somebody else's."""


def own_version() -> str:
    """The version of this package; 0 where it runs from a source tree that is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "0"


def used_versions() -> dict[str, str]:
    """Of this package and of the libraries that figures depend on."""
    return {"modeldoctor": own_version()} | {name: version(name) for name in ("torch", "torchvision", "timm")}
