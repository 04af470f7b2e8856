"""Reports in a real browser: nothing is loaded, nothing is cut off, what rows say stays text, colours can be read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from graftwork.data.findings import Finding
from graftwork.evaluation.evaluate import evaluate
from graftwork.evaluation.reliability import reliability_bins
from graftwork.evaluation.results import Interval
from graftwork.evaluation.slices import evaluate_slices
from graftwork.evaluation.tables import Table
from graftwork.evaluation.transfer import ReferenceRun, TransferReport, compare_with_references, learning_curves
from graftwork.evaluation.verdict import MAJORITY, PROBE, always, paired_claims
from graftwork.reporting.material import DoubtfulRow, Material, Mistake, ShownRow
from graftwork.reporting.page import as_html
from graftwork.reporting.sections import make_document

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
MARKUP = "<script>document.title='taken'</script><img src=x onerror=alert(1)> <b>bold</b> & 'quoted' $x$"
LABELS = ("<b>complaint</b>", "請求書", "refund of a parcel that never came at all", "other\u202elabel")


def material() -> Material:
    """A report with something in every place, and hostile words in all of them."""
    source = np.random.default_rng(0)
    truth = np.tile(np.arange(4), 30)
    own = source.dirichlet(np.ones(4), 120) * 0.5 + 0.5 * (np.arange(4) == truth[:, None])
    probe = source.dirichlet(np.ones(4), 120)
    row = ShownRow(7, MARKUP, LABELS[0])
    long = ShownRow(8, "unbroken" * 60, LABELS[2])
    runs = {"scratch": ReferenceRun(probe, 3.0)}
    transfer = TransferReport(
        test_rows=120,
        train_rows=400,
        accuracy=Interval.of(0.8, 0.7, 0.9),
        gap=Interval.of(0.1, 0.0, 0.2),
        against=compare_with_references(ReferenceRun(own, 2.0), runs, truth),
        curves=learning_curves({"transfer": {50: [own], 400: [own]}, "scratch": {50: [probe], 400: [probe]}}, truth),
        level=0.95,
    )
    return Material(
        name="acme/mail@3",
        subtitle=f"Four classes, {MARKUP}",
        evaluation=evaluate(own, truth, LABELS, majority=0, probe_probabilities=probe, dataset_digest="0" * 64),
        claims=paired_claims(own, {MAJORITY: always(0, 120, 4), PROBE: probe}, truth),
        transfer=transfer,
        bins=reliability_bins(own, truth),
        slices=(("language", evaluate_slices(own, truth, LABELS, [MARKUP, "de"] * 60, majority=0)),),
        mistakes=(Mistake(row, LABELS[1], 0.9, ((long, 0.8), (row, 0.7))), Mistake(long, LABELS[1], 0.8, ())),
        wrong=2,
        doubts=(DoubtfulRow(row, LABELS[3], 0.1, 0.8),),
        doubted=1,
        warnings=(Finding(code="x", severity="warning", message=MARKUP, count=1, rows=(2,), examples=(MARKUP,)),),
        lineage=Table("From the base model down", ("what", "made by"), (("minilm", "base model"),)),
        cost=Table("Cost", ("", ""), (("stored", "31.6 kB"),)),
        identity=Table("Digests", ("", ""), (("adapter", "a" * 64),)),
        commands=(f"graft train '{MARKUP}' " + "--set x " * 40,),
        notes={"figures": (MARKUP,)},
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(as_html(make_document(material())), "utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, (
        "Chromium is missing: `make browser` installs it (as root), or scripts/install_browser.sh tells how."
    )
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield running
        running.close()


def open_page(
    browser: Browser, report: Path, *, width: int = 1280, scheme: Literal["light", "dark"] = "light"
) -> tuple[Page, list[str], list[str]]:
    """The page, what it said in the console, and what it asked for."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    told: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    return page, told, asked


# The contrast of text with what lies behind it, as WCAG 2.1 works it out; colours are read from a canvas's pixel.
CONTRASTS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const layered = colours => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = pixel => {
    const [r, g, b] = [...pixel].slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest('style')) continue;
    const behind = [];
    for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
    const style = getComputedStyle(element);
    const colour = element.closest('svg') ? style.fill : style.color;
    const [a, b] = [light(layered([...behind, colour])), light(layered(behind))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
}"""


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_loads_nothing_says_nothing_and_fits(
    browser: Browser, report: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    page, told, asked = open_page(browser, report, width=width, scheme=scheme)
    assert told == []
    assert asked == [report.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    cut: Any = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && !e.closest('svg')
             && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert cut == []
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 150
    assert [found for found in contrasts if found[0] < 4.5] == []
    page.close()


def test_what_rows_and_labels_say_is_text(browser: Browser, report: Path) -> None:
    page, _, _ = open_page(browser, report)
    assert page.title() == "acme/mail@3: report"
    assert page.locator("script, main img, main b").count() == 0
    shown = page.locator("#mistakes tbody th").first
    assert shown.inner_text() == MARKUP
    assert LABELS[0] in page.locator("#confusion tbody th").all_inner_texts()
    assert page.locator("body").inner_text().count("other\\u202elabel") > 3
    assert "\u202e" not in page.content()
    page.close()


def test_every_chart_has_words_and_its_labels_are_text(browser: Browser, report: Path) -> None:
    page, _, _ = open_page(browser, report)
    charts = page.locator("svg")
    assert charts.count() == 5
    for chart in charts.all():
        assert chart.get_attribute("role") == "img"
        assert len(chart.get_attribute("aria-label") or "") > 40
    assert "請求書" in page.locator("#classes svg").inner_html()
    names: Any = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(names) == len(set(names))
    page.close()


def test_it_prints_dark_on_white_even_when_the_screen_is_dark(browser: Browser, report: Path) -> None:
    page, _, _ = open_page(browser, report, scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert page.locator("nav").is_hidden()
    page.close()
