"""The report's page in a browser, and with hostile names."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import make_diagnosis
from PIL import Image
from report_files import Page, made
from stored_results import HOSTILE, hostile_diagnosis, make_trial, with_pictures, write_run

from modeldoctor.report import make_report
from modeldoctor.report.wording import unbroken
from modeldoctor.results.hdf5 import write_diagnosis
from modeldoctor.results.trial import read_trial, write_trial

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", gain=0.3, groups=True)


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    path = tmp_path / "alone" / "some.h5"
    path.parent.mkdir()
    write_diagnosis(with_pictures(make_diagnosis()), path)
    return path


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    run = write_run(tmp_path / "hostile", gain=0.3, diagnosis=hostile_diagnosis())
    trial = make_trial(HOSTILE, 0.3)
    provenance = {**trial.provenance, "arch": HOSTILE[0]}
    write_trial(type(trial)(**{**vars(trial), "provenance": provenance}), run / "trial.json")
    return run


def test_hostile_names_are_text_and_nothing_else(hostile: Path) -> None:
    html, _, markdown = made(hostile)
    page = Page(html)
    assert page.tags.count("script") == 1
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    text = " ".join(page.text)
    assert HOSTILE[0] in text
    assert "<img src=x onerror=alert(1)>" in text
    assert "<script" not in markdown
    assert "<img" not in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows if "pipe" in line}) <= 3
    assert max(map(len, markdown.splitlines())) < 4000
    for obeyed in "\x1b\u202e":
        assert obeyed not in html
        assert obeyed not in markdown
    assert "\\x1b[31m\\u202eright-to-left" in text


@pytest.mark.parametrize("name", ["run", "alone", "hostile"])
def test_a_table_of_markdown_has_as_many_cells_in_each_row(name: str, request: pytest.FixtureRequest) -> None:
    markdown = made(request.getfixturevalue(name))[2]
    for table in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.M):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_before_and_after_of_an_intervention_stand_beside_each_other(alone: Path) -> None:
    """By hand: image 1 is isolated and was altered twice; image 2 was right without kernel 3."""
    html = made(alone)[0]
    assert "4 wrong images of <bdi>val</bdi> were explained" in html
    assert "<dt>explaining wrong images took</dt><dd>42 seconds</dd>" in html
    cards = (html.partition(f'clamp copy"><bdi>val/{number}.png')[2] for number in (1, 2))
    first, second = (card.partition("</article>")[0] for card in cards)

    def tried(card: str) -> list[tuple[str, str, str]]:
        tries = card.partition('class="tries')[2].partition("</div>")[0]
        return re.findall(r'<figcaption>([^<]+)<br><span class="(\w+)">.*?</span> (\d+%)', tries)

    assert tried(first) == [("as it is", "wrong", "75%"), ("object removed", "wrong", "88%"),
                            ("another background", "right", "62%")]  # fmt: skip
    assert tried(second) == [("as it is", "wrong", "50%"), ("without kernel 3", "right", "62%")]
    assert first.count("<img") == 4 + 3
    assert second.count("<img") == 4  # the pixels stay as they are


def browse(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM
    # fmt: off
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--v=0",
        "--enable-logging=stderr", f"--log-net-log={profile}.netlog", "--net-log-capture-mode=Everything",
        *options, page.as_uri(),
    ]
    # fmt: on
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("name", ["run", "hostile"])
def test_a_browser_finds_no_error_and_fetches_nothing(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder = request.getfixturevalue(name)
    make_report(folder)
    done = browse(folder / "report.html", tmp_path / "profile", "--dump-dom", "--window-size=390,800")
    assert "CONSOLE" not in done.stderr, done.stderr
    assert '<button type="button">class</button>' in done.stdout  # the script has run to its end
    fetched = re.findall(
        r'"url":"(https?://[^"]+)"', Path(f"{tmp_path / 'profile'}.netlog").read_text(errors="replace")
    )
    own = [url for url in fetched if "google" not in url and "gvt1" not in url]  # Chromium's own errands
    assert not own


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_check_for_errors_and_fetching_can_fail(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text('<img src="http://localhost:9/x.png"><script>console.error("bad"); missing()</script>')
    done = browse(page, tmp_path / "profile", "--dump-dom")
    assert "CONSOLE" in done.stderr
    assert "http://localhost:9/x.png" in Path(f"{tmp_path / 'profile'}.netlog").read_text(errors="replace")


def test_warnings_stand_before_everything_that_they_put_in_doubt(alone: Path) -> None:
    html, _, markdown = made(alone)
    for text, first in ((html, 'id="todo"'), (markdown, "**Worst classes")):
        assert 0 < text.index("1 of 3 classes has no images") < text.index(first)
        assert text.count("1 of 3 classes has no images") == 1


def test_no_option_is_broken_at_its_hyphens_and_nothing_else_is_let_through() -> None:
    said = str(unbroken("<b>: --crop-pct decides, so do --arch and -- none"))
    assert said == (
        '&lt;b&gt;: <span class="whole">--crop-pct</span> decides, so do <span class="whole">--arch</span> and -- none'
    )


def test_the_map_of_confusions_keeps_their_direction(tmp_path: Path) -> None:
    """By hand: 0 is taken for 1 and for 2, 1 for 0, and 2 for 1, once each; nothing else is wrong."""
    write_diagnosis(make_diagnosis(), tmp_path / "a.h5")
    html = make_report(tmp_path / "a.h5", formats=["html"]).files[0].read_text(encoding="utf-8")
    figure = html[html.index("<figcaption>Confusions") :].partition("</figure>")[0]
    assert "the brightest confusion is 1 image" in html
    assert "true class ↓" in figure
    assert "taken for →" in figure
    encoded = re.search(r"base64,([A-Za-z0-9+/=]+)", figure)
    assert encoded is not None
    with Image.open(io.BytesIO(base64.b64decode(encoded[1]))) as picture:
        cells = np.asarray(picture.convert("RGB")).sum(axis=2).astype(int)
    assert cells.shape == (3, 3)
    bright = {(row, column) for row, column in np.argwhere(cells == cells.max()).tolist()}
    rows = re.findall(r'<bdi title="(.)', html.partition('<div class="rows">')[2].partition("</ol>")[0])
    place = [rows.index(first) for first in "ca&"]  # the names' first letters; the third is escaped
    assert bright == {(place[label], place[taken]) for label, taken in ((0, 1), (0, 2), (1, 0), (2, 1))}


def test_the_change_by_class_is_of_the_remedy_that_the_outcome_is_about(tmp_path: Path) -> None:
    """It is not called `treat`, and stands before `continue`, which is like the original."""
    run = write_run(tmp_path / "run", gain=0.3)
    stored = (run / "trial.json").read_text(encoding="utf-8").replace('"treat"', '"last-layer"')
    (run / "trial.json").write_text(stored, encoding="utf-8")
    table = made(run)[0].partition('<table class="sortable classes">')[2].partition("</table>")[0]
    heads = re.findall(r'<th class="number"[^>]*>([^<]+)</th>', table)
    assert heads == ["images", "original", "last-layer", "change"]
    trial = read_trial(run / "trial.json")
    gains = [
        after.accuracy.value - before.accuracy.value
        for before, after in zip(trial["original"].classes, trial["last-layer"].classes, strict=True)
    ]
    changes = re.findall(r'data-label="change"[^>]*>([^<]+)</td>', table)
    assert sorted(changes) == sorted(f"{100 * gain:+.1f}" for gain in gains)
