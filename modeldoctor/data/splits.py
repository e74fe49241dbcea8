"""The names of splits."""

from __future__ import annotations

WHOLE = "all"
"""The split's name where a source has no splits."""

_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
SPLIT_ORDER = tuple(_SPLITS)


def split_named(name: str) -> str | None:
    """Return `train`, `val` or `test` for any spelling of them, else None."""
    return next((split for split, spellings in _SPLITS.items() if name.lower() in spellings), None)
