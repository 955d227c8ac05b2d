"""The page of a study in Chromium, offline: every choice of method and order, and the numbers of results.json."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from lifealign.evaluation.numbers import number
from lifealign.studies.report.write import render_html
from support.colours import channels, contrast
from support.study_document import METHODS, ORDERS, make_study

pytestmark = pytest.mark.browser
# Without the services that a browser calls by itself; without a sandbox because a build machine's user is root.


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    return make_study()


@pytest.fixture(scope="module")
def address(study: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("study") / "study.html"
    path.write_text(render_html(study), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The opened page, offline; any request but the page itself, and any error in its script, fails the test."""
    context = browser.new_context(**getattr(request, "param", {}))
    context.set_offline(True)
    opened = context.new_page()
    requests: list[str] = []
    errors: list[str] = []
    opened.on("request", lambda one: requests.append(one.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.on("console", lambda message: errors.append(message.text))
    opened.goto(address)
    yield opened
    context.close()
    # A data: address is no request to anyone.
    assert [url for url in requests if not url.startswith("data:")] == [address]
    assert errors == []


def choose(page: Any, **wanted: str) -> None:
    for key, label in wanted.items():
        page.select_option(f'select[data-choice="{key}"]', label=label)


def mean_matrix(study: dict[str, Any], method: str, order: str, metric: str) -> list[list[float | None]]:
    """Of results.json alone, without the code of the report."""
    runs = [r for r in study["runs"] if (r["method"], r["order"], r["status"]) == (method, order, "done")]
    matrix = []
    for k in range(3):
        columns = [
            [r["scores"][metric]["R"][k][j] for r in runs if r["scores"][metric]["R"][k][j] is not None]
            for j in range(3)
        ]
        matrix.append([sum(c) / len(c) if c else None for c in columns])
    return matrix


def test_two_methods_are_chosen_to_show_their_matrices(page: Any, study: dict[str, Any]) -> None:
    methods = list(dict.fromkeys(run["method"] for run in study["runs"]))
    one, other = page.locator("#matrices .picks select").all()
    assert one.locator("option").all_inner_texts() == methods and len(methods) == 6
    assert (one.input_value(), other.input_value()) == ("0", "1"), "the study's baseline, beside the next"
    assert page.locator('select[data-choice="order"] option').all_inner_texts() == ["All orders", *ORDERS]
    other.select_option(label="lifealign")
    for method, order in product(methods, ORDERS):
        one.select_option(label=method)
        other.select_option(label=method)
        choose(page, score="Preference accuracy, %", order=order)
        figures = page.locator("#matrices figure:visible")
        if method not in METHODS and order == "reversed":
            assert figures.count() == 0
            assert page.locator("#matrices").get_by_text("Nothing was measured for this choice").is_visible()
            continue
        assert figures.count() == 1
        assert figures.locator("figcaption").inner_text().startswith(f"{method}, order {order}")
        assert figures.locator("tbody th").all_inner_texts() == [f"{j + 1} {t}" for j, t in enumerate(ORDERS[order])]
        shown = [row.locator("td").all_inner_texts()[1:] for row in figures.locator("tbody tr").all()]
        matrix = mean_matrix(study, method, order, "accuracy")
        assert shown == [[number(row[j], "accuracy") for row in matrix] for j in range(3)], "tasks down, stages across"
    assert page.locator("#interference section:visible").count() == 1


def test_the_first_screen_is_sorted_and_sets_the_own_method_off(page: Any) -> None:
    assert page.locator(".verdict:visible").first.inner_text().startswith("lifealign: 72.8 (")
    table = page.locator("#main section:visible table")
    names = table.locator("tbody th")
    assert names.all_inner_texts() == ["lifealign", "replay", "sequential"]
    assert table.locator("tr.own th").all_inner_texts() == ["lifealign"]
    for kind, expected in (("descending", "lifealign"), ("ascending", "sequential")):
        table.locator("th button", has_text="Last").first.click()
        assert table.locator("th[aria-sort]").get_attribute("aria-sort") == kind
        assert names.all_inner_texts()[0] == expected


def test_every_order_shows_the_means_of_the_table(page: Any, study: dict[str, Any]) -> None:
    for order in ORDERS:
        choose(page, order=order)
        tables = page.locator("#all section:visible")
        assert tables.count() == 1
        shown = {float(v) for v in tables.locator("data").evaluate_all("all => all.map(one => one.value)")}
        lines = [line for line in study["table"] if line["order"] == order]
        expected = {
            line["metrics"][m][key]["mean"]
            for line in lines
            for m in ("accuracy", "nll")
            for key in ("bwt", "last", "ap")
        }
        assert shown == expected and len(shown) == 18
    choose(page, order="All orders")
    assert page.locator("#all section:visible").count() == len(ORDERS)


def test_the_score_switches_tables_charts_and_matrices(page: Any) -> None:
    def shown(part: str) -> list[str]:
        return page.locator(f"{part} :is(h3, figcaption):visible").all_inner_texts()

    for score, other in (("Preference accuracy, %", "NLL"), ("NLL per token, nats", "accuracy")):
        choose(page, score=score)
        for part in ("#main", "#details", "#differences", "#matrices", "#by-order", "#sensitivity"):
            found = shown(part)
            assert found and all(other.lower() not in text.lower() for text in found)


def test_all_is_shown_without_a_script(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    assert page.locator("#matrices figure:visible").count() == 2 * (6 + 3)
    assert not page.locator(".bar").is_visible()
    context.close()


@pytest.mark.parametrize("page", [{"viewport": {"width": 360, "height": 740}}], indirect=True, ids=["phone"])
def test_nothing_sticks_out_on_a_phone(page: Any) -> None:
    choose(page, order="All orders")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.parametrize(
    "page", [{"color_scheme": scheme} for scheme in ("light", "dark")], indirect=True, ids=["light", "dark"]
)
def test_text_can_be_read_in_light_and_dark(page: Any) -> None:
    """WCAG contrast of at least 4.5 for the text of every score cell, whose background is the ramp over its card."""
    found = page.evaluate(
        """() => Array.from(document.querySelectorAll("#matrices td.v")).filter(cell => cell.offsetParent).map(cell =>
          [getComputedStyle(cell).color, getComputedStyle(cell).backgroundColor,
           getComputedStyle(cell.closest("figure")).backgroundColor])"""
    )
    assert len(found) >= 18
    assert min(contrast(*map(channels, colours)) for colours in found) >= 4.5
