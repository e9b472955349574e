"""The pages in a real browser, if there is one: no error, every picture drawn, nothing wider than a phone."""

import html
import json
import re
import shutil
import subprocess

import pytest

from trackkeras.comparison import write_comparison
from trackkeras.report import write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=5000",
)
LISTEN = """<script>
const problems = [];
addEventListener("error", event => problems.push(String(event.message || event.target.src)), true);
addEventListener("load", () => {
  const drawn = [...document.querySelectorAll("svg, img")].map(picture => {
    const box = picture.getBoundingClientRect();
    return box.width > 50 && box.height > 50 && picture.naturalWidth !== 0;
  });
  document.body.dataset.seen = JSON.stringify({
    problems, drawn, width: innerWidth, needed: document.documentElement.scrollWidth,
  });
});
</script>"""


def look(page, tmp_path, width):
    """Open a page in a window of this width; return what a script inside of it saw."""
    copy = tmp_path / f"{page.stem}-{width}.html"
    text = page.read_text()
    # The frame has the width of a phone also where the browser's window cannot be as narrow.
    copy.write_text(text.replace("<head>", f"<head>{LISTEN}", 1))
    frame = tmp_path / f"frame-{copy.name}"
    frame.write_text(
        f'<iframe id="page" src="{copy.name}" width="{width}" height="2000"></iframe><script>'
        'const page = document.getElementById("page");'
        'page.addEventListener("load", () => setTimeout(() => {'
        "document.body.dataset.seen = page.contentDocument.body.dataset.seen;}, 200));</script>"
    )
    command = [BROWSER, *FLAGS, "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=100, check=True
    )
    found = re.search(r'<body data-seen="([^"]*)"', done.stdout)
    assert found, done.stdout[:500]
    return json.loads(html.unescape(found[1]))


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_pages_of_a_run_and_of_a_folder(tmp_path, make_run):
    folders = [make_run(name, tmp_path).shrink().write() for name in ("large", "small")]
    pages = [write_report(folders[0]), write_comparison(folders, tmp_path / "comparison.html")]
    for page in pages:
        for width in (390, 1200):
            seen = look(page, tmp_path, width)
            assert seen["problems"] == []
            assert len(seen["drawn"]) >= 2
            assert all(seen["drawn"]), "a picture is missing"
            assert seen["needed"] <= seen["width"], "the page must not scroll sideways"
