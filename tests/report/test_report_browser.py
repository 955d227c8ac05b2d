"""The report's first screen in Chromium, offline: on a wide screen, on a phone and in print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lifealign.report.memories import build_results, render_html

pytestmark = pytest.mark.browser
TASKS = ["data-json", "how-to-steps", "short-facts", "see-a-professional", "private-data", "myths"]


def run(method: str, loss: float) -> dict[str, Any]:
    count = len(TASKS)
    R = [[100.0 - loss * (k - j) if j <= k else None for j in range(count)] for k in range(count)]
    scores = {"R": R, "rows": [[v and 12 for v in row] for row in R], "before": [50.0] * count}
    line = {"stage": "preference", "loss": 0.5, "margin": 0.1}
    return {
        "method": method,
        "memory": f"runs/{method}",
        "base_model": "tiny",
        "created": "2026-11-27T10:00:00+00:00",
        "tasks": TASKS,
        "scores": {"accuracy": scores, "margin": scores},
        "summary": {"accuracy": {"last": {"value": R[-1][0], "low": 70.0, "high": 90.0}}},
        "training": {task: [line] * 3 for task in TASKS},
        "config": {"seed": 0},
    }


def test_the_first_screen_on_a_wide_screen_on_a_phone_and_in_print(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_html(build_results([run("lifealign", 5.0), run("sequential", 15.0)])), encoding="utf-8")
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_offline(True)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    inside = "all => all.map(one => one.getBoundingClientRect()).every(box => box.bottom <= 900 && box.right <= 1400)"
    assert page.locator(".tile").count() == 4
    assert page.locator(".tile, .changed, [data-panel='0'] .heat").evaluate_all(inside), (
        "the verdict needs no scrolling"
    )
    assert not page.locator("#training svg").first.is_visible()
    page.locator("nav a", has_text="Training").click()
    page.locator("#training svg").first.wait_for()
    page.locator(".pick label", has_text="Reward margin").click()
    assert page.locator("[data-panel]:visible").get_attribute("aria-label") == "Reward margin"
    page.emulate_media(media="print")
    assert page.locator("[data-panel]:visible").count() == 1 and not page.locator("nav").first.is_visible()
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator(".pick label", has_text="Preference accuracy").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    heights = page.locator("[data-panel='0'] .heat tbody th").evaluate_all("all => all.map(one => one.offsetHeight)")
    assert max(heights) < 40, "no name is broken"
    cut = "all => all.map(one => one.scrollWidth > one.clientWidth)"
    assert not any(page.locator("[data-panel='0'] figure .scroll").evaluate_all(cut)), "six tasks fit"
    assert errors == []
    context.close()


def drifted() -> dict[str, Any]:
    """A run whose six tasks were measured: the factor falls, tokens shift, one principle passes another."""
    points = len(TASKS) + 1

    def cell(value: float) -> dict[str, float]:
        return {"value": value, "low": 0.8 * value, "high": 1.2 * value, "rows": 8}

    def measure(label: str, columns: dict[str, str], **more: Any) -> dict[str, Any]:
        values = {c: [cell(6.0 / (k + 1)) for k in range(points)] for c in columns}
        return {
            "label": label,
            "meaning": "What it is.",
            "worry": "Worry if it falls.",
            "columns": {
                c: {"label": name, "note": "", "unit": "nats", "better": "lower"} for c, name in columns.items()
            },
            "options": {"measure": label, "material": "samples", "samples": 8, "max_new_tokens": 24, "seed": 0},
            "tasks": TASKS,
            "cells": {c: [[one] * len(TASKS) for one in own] for c, own in values.items()},
            "all": values,
            "summary": [{}] * points,
            "curves": {},
            "tallies": {},
            "left_out": 0,
            **more,
        }

    priorities = [
        {"priorities": {n: {"value": s * (k - 3.0)} for n, s in (("concise", 1), ("polite", -1))}}
        for k in range(points)
    ]
    measures = {
        "branching": measure(
            "Branching factor", {"branching_factor": "Branching factor"}, curves={"entropy": [[2.0, 1.0, 1.5]] * points}
        ),
        "shift": measure(
            "Token shift", {"shifted_share": "Shifted"}, tallies={"shifted tokens": [[["<b>Step", 3]]] * points}
        ),
        "ledger": measure("KL ledger", {"kl_total": "KL from the base", "kl_step": "KL of the task"}),
        "principles": measure("Principles", {"preference": "Preference"}, summary=priorities),
    }
    return {**run("sequential", 15.0), "drift": {"points": ["base", *TASKS], "measures": measures}}


def test_drift_is_folded_and_fits_a_phone(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(render_html(build_results([drifted()])), encoding="utf-8")
    page = browser.new_context(viewport={"width": 1200, "height": 900}).new_page()
    page.goto(path.as_uri())
    part = page.locator("#drift")
    assert not part.locator("svg").first.is_visible(), "folded below the verdict"
    page.locator("nav a", has_text="Drift").click()
    part.locator("svg").first.wait_for()
    titles = part.locator("h3").all_inner_texts()
    assert titles == ["Branching factor", "Token shift", "KL ledger", "Principles"]
    # For each measure with charts: all prompts and six tasks; and two wide ones.
    assert part.locator(".small figure").count() == 3 * 7 and part.locator(".grid2 figure").count() == 2
    assert part.locator(".small line.chance").count() == 3 * 6, "the task of a chart is marked"
    assert "6 nats before any task, 0.857 nats after myths" in part.inner_text()
    assert '"<b>Step"' in part.inner_text()
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
