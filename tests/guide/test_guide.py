"""README and guide: every page can be read, every command in them exists with its options, and some are run."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml
from command_line import Call
from conftest import Clinic
from typer.testing import CliRunner

from modeldoctor.cli import app
from modeldoctor.errors import ModelDoctorWarning, UsageError
from modeldoctor.guide import TOPICS, read_page

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {"README": README, **{topic: read_page(topic) for topic in TOPICS}}


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command of ours in indented or fenced shell text; a line's comment and output are left out."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        found = re.match(r"(?: {4}|\$ | {4}\$ )(modeldoctor .*)", line)
        if found:
            words = shlex.split(found[1], comments=True)
            yield words[1 : words.index("|")] if "|" in words else words[1:]


GIVEN = [(page, words) for page, text in PAGES.items() for words in commands(text)]


@pytest.mark.parametrize(
    ("page", "words"), GIVEN, ids=lambda value: shlex.join([value] if isinstance(value, str) else value)
)
def test_commands_name_only_what_exists(page: str, words: list[str]) -> None:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert words[0] in known
    options = {name for parameter in known[words[0]].params for name in parameter.opts}
    named = {word.partition("=")[0].strip("[]") for word in words if word.strip("[").startswith("-")}
    assert named <= options


FOREIGN = {"--labels", "--nodata", "--autosave", "--nproc-per-node"}
"""Options of LabelMe and torchrun."""


def test_every_option_that_is_named_anywhere_exists() -> None:
    """In messages, hints, help, the page and the guide: whoever follows a hint must not be told `no such option`."""
    given = {
        option
        for command in typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    package, texts = ROOT / "modeldoctor", dict(PAGES)
    for path in package.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        said = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        texts[str(path)] = "\n".join(said)
    for path in package.rglob("templates/*.html"):
        # Custom properties of a style are written as options are.
        texts[str(path)] = re.sub(r"--[a-z]+:", "", path.read_text(encoding="utf-8"))
    named = {(word, page) for page, text in texts.items() for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
    assert len(named) > 100
    assert {(word, page) for word, page in named if word not in given | FOREIGN | {"--help", "--version"}} == set()


def workflows() -> dict[str, list[str]]:
    """The shell lines of each workflow in the guide's page on CI, by the name of its file."""
    found = {}
    for block in re.findall(r"(?m)(?:^    .*\n|^\n)+", PAGES["ci"]):
        lines = textwrap.dedent(block).strip("\n")
        if not lines.startswith("# ."):
            continue
        (job,) = [jobs for jobs in yaml.safe_load(lines).values() if isinstance(jobs, dict)]
        job = job.get("classifier", job)
        found[lines.splitlines()[0]] = job.get("script") or [step["run"] for step in job["steps"] if "run" in step]
    return found


def test_the_workflows_of_the_guide_run(
    clinic: Clinic, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [name.rpartition("/")[2] for name in workflows()] == ["classifier.yml", "# .gitlab-ci.yml"]
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    for lines in workflows().values():
        for line in lines:
            words = shlex.split(line)
            if words[0] != "modeldoctor":
                assert line == "pip install modeldoctor-vision"
                continue
            here = {"ckpt.pt": clinic.checkpoint, "photos": clinic.data}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ModelDoctorWarning)
                code, _, err = call(*(here.get(word, word) for word in words[1:]))
            assert code == (4 if words[1] == "report" else 0), err  # a third of its images are blends of two classes
        assert (Path("out") / "report.html").is_file()
    assert Path("out/gates.xml").is_file()
    assert (tmp_path / "summary.md").is_file()


def test_there_are_commands_to_look_at() -> None:
    assert {words[0] for _, words in GIVEN} >= {"diagnose", "treat", "report", "identify", "annotate", "config"}


def test_every_page_is_there_and_none_beside_them() -> None:
    files = {path.stem for path in (ROOT / "modeldoctor" / "guide").glob("*.md")}
    assert files == set(TOPICS)
    assert all(text.startswith("# ") for name, text in PAGES.items())


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) <= 150
    for text in PAGES.values():
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert (ROOT / target).exists(), target
    named = set(re.findall(r"`(scripts/[\w.]+|modeldoctor/[\w/]+\.(?:py|json))`", "\n".join(PAGES.values())))
    assert named
    for name in named:
        assert (ROOT / name).exists(), name


def test_an_unknown_topic_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="no topic is called 'verdict'") as caught:
        read_page("verdict")
    assert caught.value.hint == "modeldoctor guide verdicts"


def test_the_command_shows_a_page_and_the_list() -> None:
    run = CliRunner()
    assert run.invoke(app, ["guide", "limits"]).output.startswith("# Limits")
    listed = run.invoke(app, ["guide"]).output
    assert all(topic in listed for topic in TOPICS)


def test_the_main_path_of_the_readme_runs(clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of the README, on a folder that has what they name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["modeldoctor"])
    shutil.copy(clinic.checkpoint, "ckpt.pt")
    shutil.copytree(clinic.data, "photos", ignore=shutil.ignore_patterns("test"))
    shutil.copytree(clinic.masks, "masks")
    quick = ["--hooks", "--noise-draws", "1", "--samples-per-class", "4", "--device", "cpu"]
    run = CliRunner()
    told = [words for words in commands(README) if words[0] in ("identify", "diagnose") and "ckpt.pt" in words]
    told.append(["report", "diagnosis.h5"])
    assert len(told) == 3
    for words in told:
        result = run.invoke(app, [*words, *(quick if words[0] == "diagnose" else [])], catch_exceptions=False)
        assert result.exit_code == 0, (words, result.output)
    assert Path("report.html").exists()
