"""The guide: one Markdown page a topic, shipped with the package and shown by `modeldoctor guide TOPIC`."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.resources import files

from modeldoctor.errors import UsageError

__all__ = ["TOPICS", "read_page"]

# In the order in which a newcomer meets them.
TOPICS: dict[str, str] = {
    "checkpoints": "which files can be read, and how the network in them is found",
    "data": "images, labels, splits and object masks",
    "diagnose": "what a diagnosis measures, its options, what it writes",
    "layers": "what counts as a layer, and how a network is cut",
    "verdicts": "why single images are wrong: what each verdict means and how far to trust it",
    "treat": "fine-tuning under constraints, controls, and the outcome of a trial",
    "report": "the page, its JSON and Markdown, and gates for exit codes",
    "ci": "running it unattended: exit codes, gates, resuming",
    "python": "the same from Python",
    "files": "what is written, and the HDF5 and JSON formats",
    "speed": "time, memory, several processes and GPUs",
    "limits": "what the method and the tool cannot do",
}


def read_page(topic: str) -> str:
    """The Markdown text of a page.

    >>> read_page("limits").splitlines()[0]
    '# Limits'

    Raises:
        UsageError: there is no such topic.
    """
    if topic not in TOPICS:
        near = get_close_matches(topic, TOPICS, n=2, cutoff=0.4)
        raise UsageError(
            f"no topic is called {topic!r}",
            where="guide",
            expected=", ".join(TOPICS),
            hint=f"modeldoctor guide {near[0]}" if near else "modeldoctor guide lists the topics",
        )
    return files(__package__).joinpath(f"{topic}.md").read_text(encoding="utf-8")
