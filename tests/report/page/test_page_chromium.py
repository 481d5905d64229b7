"""The page in a real browser: nothing on its console, every section seen, light, dark, on a phone, and on paper."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from compress.report.charts import palette
from compress.report.page import content, page
from compress.report.page.sources import Run, Sources
from tests.support import runs
from tests.support.results import dense_and_packed

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium on this machine")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--enable-logging=stderr",
    "--force-color-profile=srgb",
)  # fmt: skip
DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"

# Measures the page once it stands, and gives it to the page that holds it in a frame.
PROBE = """
<script>addEventListener("load", () => {
  const at = (one) => { const r = one.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom] };
  const wide = [...document.querySelectorAll("main *")].filter((one) => !one.closest(".scroll, .unseen, svg")
    && getComputedStyle(one).clipPath === "none" && at(one)[1] > innerWidth + 1);
  document.getElementById("theme").click();
  parent.postMessage(JSON.stringify({
    width: innerWidth, height: document.documentElement.scrollHeight, scrolls: document.documentElement.scrollWidth,
    sections: Object.fromEntries([...document.querySelectorAll("section")].map((s) => [s.id, at(s)])),
    wide: wide.map((one) => one.outerHTML.slice(0, 120)),
    text: [...document.querySelectorAll("svg text")].map((one) => at(one)),
    theme: document.documentElement.dataset.theme,
  }), "*");
})</script>"""
FRAME = """<!doctype html><body style="margin:0"><pre id="found"></pre><script>
addEventListener("message", (event) => { document.getElementById("found").textContent = event.data });
</script><iframe src="SOURCE" style="width:WIDTHpx;height:900px;border:0"></iframe>"""


def browse(source: Path, profile: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [BROWSER, *QUIET, f"--user-data-dir={profile}", *flags, source.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def console(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


@pytest.fixture
def html(manifest: dict[str, Any]) -> str:
    """One run with every section and many blocks."""
    manifest["warnings"] = ["1 linear saw no token and was solved without data"]
    manifest["source"] |= {"size_bytes": 16384}
    made = runs.of_layers(manifest, blocks=40, experts=2)
    long = "a long answer without any end " * 12 + "x" * 300
    return page.render(content.build(Sources((Run("run", made, runs.of_atlas(long), speed=runs.speed()),))))


@pytest.fixture
def compared(manifest: dict[str, Any]) -> str:
    found = (
        Run("a", manifest, runs.of_atlas(), speed=runs.speed()),
        Run("b", runs.of_layers(manifest, 6), dense_and_packed()[1]),
    )
    return page.render(content.build(Sources(found)))


def measured(html: str, tmp_path: Path, width: int) -> dict[str, Any]:
    """The page laid out `width` pixels wide, as its own script and styles make it."""
    source, frame = tmp_path / "page.html", tmp_path / "frame.html"
    # the probe is a second script, which the page's own policy would rightly refuse
    open_ = re.sub(r"<meta http-equiv=[^>]*>", "", html)
    source.write_text(open_.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    frame.write_text(FRAME.replace("SOURCE", source.as_uri()).replace("WIDTH", str(width)), encoding="utf-8")
    done = browse(frame, tmp_path / "profile", "--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom")
    assert not console(done)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found and found[1], "the page did not answer"
    return dict(json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")))


@pytest.mark.parametrize("width", [1200, 768, 360])
def test_every_section_fits_the_width(html: str, tmp_path: Path, width: int) -> None:
    found = measured(html, tmp_path, width)
    assert list(found["sections"]) == [
        "headline", "knowledge", "answers", "lost", "text", "speed", "layers", "made", "downloads", "reading",
    ]  # fmt: skip
    edge = 0.0
    for name, (left, right, top, bottom) in found["sections"].items():
        assert 0 <= left < right <= width and bottom - top > 60, name
        assert top >= edge - 1, f"{name} lies over the one before"
        edge = bottom
    assert (found["width"], found["scrolls"]) == (width, width)
    assert not found["wide"]
    assert all(left >= -1 and right <= width + 1 for left, right, _, _ in found["text"])
    assert found["theme"] == "light", "the button chooses a theme"


def test_several_runs_fit_a_phone(compared: str, tmp_path: Path) -> None:
    found = measured(compared, tmp_path, 360)
    assert found["scrolls"] == 360 and not found["wide"]
    assert list(found["sections"])[:2] == ["comparison", "A-headline"]


@pytest.mark.parametrize(("flag", "theme"), [(LIGHT, palette.LIGHT), (DARK, palette.DARK)])
def test_the_screenshot_has_the_colours_of_the_theme(
    html: str, tmp_path: Path, flag: str, theme: dict[str, str]
) -> None:
    from PIL import Image

    source, picture = tmp_path / "page.html", tmp_path / "page.png"
    source.write_text(html, encoding="utf-8")
    done = browse(source, tmp_path / "profile", flag, "--window-size=1200,6400", f"--screenshot={picture}")
    assert not console(done), "the page's own policy forbids nothing that it does"
    with Image.open(picture) as image:
        shot = image.convert("RGB")
    assert shot.size == (1200, 6400)
    assert shot.getpixel((5, 1500)) == _rgb(theme["paper"])
    counted = {colour: count for count, colour in shot.getcolors(1200 * 6400)}
    for name in ("card", "dense", "packed", "warn-back", "loss-back", "heat-0", "heat-6"):
        assert counted.get(_rgb(theme[name]), 0) > 50, name


def test_a_page_with_an_error_would_be_seen(tmp_path: Path) -> None:
    """Guards the tests above: a console that is never heard would always pass."""
    source = tmp_path / "page.html"
    source.write_text("<script>console.error('broken')</script>", encoding="utf-8")
    assert "broken" in console(browse(source, tmp_path / "profile", "--dump-dom"))[0]


def test_on_paper_lost_items_are_unfolded(html: str, tmp_path: Path) -> None:
    source, printed = tmp_path / "page.html", tmp_path / "page.pdf"
    source.write_text(html, encoding="utf-8")
    done = browse(source, tmp_path / "profile", DARK, "--no-pdf-header-footer", f"--print-to-pdf={printed}")
    assert not console(done)
    content = printed.read_bytes()
    assert content.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", content))
    assert 2 <= pages <= 6, "tables of all figures stay folded"


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
