"""The transcript browser in Chromium, offline: filters, search, links, keys, hostile text, and 5,000 prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lifealign.data.answers import AnswerRecord
from lifealign.data.load import load_rows
from lifealign.judging.opinions import Opinion
from lifealign.report.answers import build_threads, write_page
from support.answers import life
from support.colours import channels, contrast

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'> \u202egnirts esrever\u202c & <b>bold</b>"
LIVES = {
    "lost?": "-+--",
    "flash?": "--+-",
    "back?": "-+-+",
    "no good?": "----",
    "late?": "--++",
    "held?": "-+++",
    "quiet?": "....",
}


def records() -> list[AnswerRecord]:
    return [r for question, signs in LIVES.items() for r in life(question, signs)] + life("zwei?", "+++-", task="two")


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens threads in a page, offline; any request but the page itself, and any error in its script, fails the test."""
    contexts, requests, errors = [], [], []
    path = tmp_path / "compare.html"

    def open_page(
        answers: list[AnswerRecord], opinions: list[Opinion] | None = None, hash_: str = "#show=all", **options: Any
    ) -> Any:
        write_page(build_threads(answers, opinions or []), path)
        context = browser.new_context(**options)
        context.set_offline(True)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda one: requests.append(one.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.goto(path.as_uri() + hash_)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert {url.split("#")[0] for url in requests if not url.startswith("data:")} == {path.as_uri()}
    assert errors == []


def asks(page: Any) -> list[str]:
    return page.locator(".row .ask").all_inner_texts()


def chip(page: Any, name: str) -> Any:
    return page.locator("fieldset.states label", has_text=name)


def test_each_filter_shows_its_prompts(opened: Any) -> None:
    page = opened(records())
    for name, expected in {
        "Forgotten": ["lost?", "zwei?"],
        "Recovered": ["back?"],
        "Came and went": ["flash?"],
        "Never learnt": ["no good?"],
        "Learnt later": ["late?"],
        "Kept": ["held?"],
        "Not judged": ["quiet?"],
        "All": [*LIVES, "zwei?"],
    }.items():
        chip(page, name).click()
        assert asks(page) == expected
        assert chip(page, name).locator("b").inner_text() == str(len(expected))
    assert page.locator("text=Judge and people disagree").count() == 0  # nobody judged
    page.select_option("#task", "two")
    assert asks(page) == ["zwei?"]
    assert chip(page, "Forgotten").locator("b").inner_text() == "1"
    # Task two: good before it was learnt, then good, then bad.
    marks = page.locator(".row .m").evaluate_all("all => all.map(one => one.className)")
    assert marks == ["m good before", "m good before", "m good", "m bad"]
    assert page.locator(".points li").all_inner_texts()[-1].replace("\n", " ") == "0% of 1 3 three"
    assert page.locator(".row .m").last.get_attribute("title") == "After three: fails the rule"


def test_what_is_shown_of_a_prompt(opened: Any) -> None:
    answers = life("lost?", "-+--")
    answers[3] = AnswerRecord.of(
        "one", answers[3].prompt, answers[2].answer, source="ours", point="three", stage=3, scores=answers[3].scores
    )
    pair = Opinion(answers[1].id, "judge", "big", versus=answers[2].id, outcome="won", words="Said why.")
    opinions = [
        Opinion(answers[1].id, "judge", "big", score=8, words="Fits well.", rubric="helpful"),
        Opinion(answers[2].id, "judge", "big", unscored="refused"),
        Opinion(answers[1].id, "people", "anna", score=3, words="Too long"),
        *pair.both_sides(),
    ]
    page = opened(answers, opinions)
    cards = page.locator(".card").all()
    assert [card.locator("h3").inner_text() for card in cards] == [
        "Before any task",
        "After one",
        "After two",
        "After three",
    ]
    assert [card.locator(".tags").all_inner_texts() for card in cards] == [
        ["not learnt yet"],
        ["learnt here"],
        [],
        ["now"],
    ]
    assert [card.locator(".verdict").inner_text() for card in cards] == [
        "fails the rule",
        "passes the rule",
        "fails the rule",
        "fails the rule",
    ]
    said = cards[1].locator(".said li").all_inner_texts()
    assert said == [
        "Judge big (helpful): 8 · Fits well.",
        "anna: 3 · Too long",
        "Judge big: better than after two · Said why.",
    ]
    assert cards[2].locator(".said li").all_inner_texts() == [
        "Judge big: not scored: refused",
        "Judge big: worse than after one · Said why.",
    ]
    assert "Rule passed" in cards[1].inner_text()
    assert cards[3].locator(".same").inner_text() == "Same answer as before. Show it"
    cards[3].locator("button").click()
    assert cards[3].locator(".text").inner_text() == "answer at two"
    page.keyboard.press("d")
    assert cards[2].locator("del").inner_text() == "one" and cards[2].locator("ins").inner_text() == "two"
    assert page.locator(".badge.disagree").count() == 1
    chip(page, "Judge and people disagree").click()
    assert asks(page) == ["lost?"]
    page.select_option("#criterion", "people")
    assert page.locator(".badge").first.inner_text() == "Never learnt"  # anna's 3 is below 7, and all there is


def test_hostile_text_is_text(opened: Any) -> None:
    answers = life(HOSTILE, "-+--", answer=HOSTILE)
    opinions = [Opinion(answers[1].id, "judge", HOSTILE, score=2, words=HOSTILE)]
    page = opened(answers, opinions)
    assert page.locator(".card .text").first.text_content() == f"{HOSTILE} at base"
    assert page.locator(".turn .text").text_content() == HOSTILE
    assert page.locator(".said .text").text_content() == HOSTILE
    page.keyboard.press("d")
    page.fill("#search", "<b>bold")
    page.locator(".said mark").first.wait_for()
    assert asks(page) == [HOSTILE]
    assert page.evaluate("window.pwned === undefined")
    assert page.locator("img, .detail b b, article script").count() == 0
    # An override of the reading direction ends with its text.
    assert page.locator(".card .text").first.evaluate("one => getComputedStyle(one).unicodeBidi") == "isolate"


def test_search_and_links(opened: Any) -> None:
    page = opened(records(), [Opinion(records()[8].id, "judge", "m", score=1, words="Rather ODD, is it not")])
    page.fill("#search", "odd rather")
    page.locator(".said mark").first.wait_for()
    assert asks(page) == ["back?"]
    assert page.locator(".said mark").all_inner_texts() == ["Rather", "ODD"]
    item = records()[8].item
    assert page.url.endswith(f"#item={item}&show=all&search=odd+rather")
    page.fill("#search", "nothing like it")
    page.locator(".list", has_text="No prompt matches.").wait_for()
    assert asks(page) == []
    # A link leads to its item, even if its filter leaves it out; following one in an open page works, too.
    linked = opened(records(), hash_=f"#item={item}&show=kept")
    assert linked.locator(".turn .text").inner_text() == "back?" and len(asks(linked)) == 8
    assert linked.locator(".row[aria-selected=true] .ask").inner_text() == "back?"
    assert linked.locator("#link").get_attribute("href") == f"#item={item}"
    linked.evaluate(f"location.hash = '#item={records()[0].item}&show=forgotten'")
    linked.locator(".turn", has_text="lost?").wait_for()
    assert asks(linked) == ["lost?", "zwei?"]


def test_opens_on_the_worst_falls_with_columns_for_the_points(opened: Any) -> None:
    late = life("fell late?", "-++-")
    page = opened(
        late + life("fell at once?", "-+--") + life("held?", "-+++") + life("zwei?", "++--", task="two"), hash_=""
    )
    assert asks(page) == ["fell at once?", "fell late?"], "the longest failing first"
    assert page.locator(".cols .marks span").evaluate_all("all => all.map(one => one.title)") == [
        "Before any task",
        "After one",
        "After two",
        "After three",
    ]
    lefts = page.locator(".row").evaluate_all(
        "rows => rows.map(row => [...row.querySelectorAll('.m')].map(m => m.offsetLeft))"
    )
    assert lefts[0] == lefts[1] and len(set(lefts[0])) == 4
    assert opened(life("held?", "-+++"), hash_="").locator(".row").count() == 1, "nothing was forgotten: all prompts"


def test_why_an_answer_fails_and_first_beside_now(opened: Any) -> None:
    answers = life("lost?", "-+--")
    texts = ["no", "a b c d e f g h", "no", "a b c x e f g h"]
    for i, text in enumerate(texts):
        old = answers[i]
        answers[i] = AnswerRecord.of(
            "one",
            old.prompt,
            text,
            source="ours",
            point=old.point,
            stage=i,
            scores=old.scores,
            reference="the chosen one",
            rule="Letters in order.",
            finish="length" if i == 3 else "stop",
        )
    page = opened(answers, hash_="")
    cards = page.locator(".card")
    assert [card.locator(".why").all_inner_texts() for card in cards.all()] == [
        ["Fails: Letters in order."],
        [],
        ["Fails: Letters in order."],
        ["Fails: Letters in order."],
    ]
    assert cards.locator(".cut").all_inner_texts() == ["cut off"] and cards.last.locator(".cut").count() == 1
    page.keyboard.press("d")
    assert cards.nth(2).locator(".same").inner_text() == "Rewritten throughout."
    page.keyboard.press("f")
    assert cards.locator("h3").all_inner_texts() == ["After one", "After three"]
    assert (cards.last.locator("del").inner_text(), cards.last.locator("ins").inner_text()) == ("d ", "x ")
    page.keyboard.press("s")
    assert page.locator(".row .starred").count() == 1
    with page.expect_download() as download:
        page.locator("#export").click()
    (line,) = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {
        "prompt": [{"role": "user", "content": "lost?"}],
        "chosen": "the chosen one",
        "rejected": texts[3],
    }
    (row,) = load_rows([json.loads(line)], "starred").rows
    assert (row.chosen, row.rejected) == ("the chosen one", texts[3]), "`learn` reads it"


def test_by_keyboard_alone(opened: Any) -> None:
    page = opened(records())

    def current() -> str:
        return page.locator(".turn .text").inner_text()

    seen = []
    for key in ("ArrowDown", "j", "k", "End", "Home", "2", "j"):
        page.keyboard.press(key)
        seen.append(current())
    assert seen == ["flash?", "back?", "flash?", "zwei?", "lost?", "lost?", "zwei?"]
    assert asks(page) == ["lost?", "zwei?"]
    page.keyboard.press("/")
    page.keyboard.type("2jk?")  # text, not keys
    assert page.input_value("#search") == "2jk?"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.className") == "list"
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_two_sources_are_told_apart(opened: Any) -> None:
    page = opened(life("lost?", "-+--") + life("lost?", "-+++", source="other"))
    assert asks(page) == ["lost?", "lost?"]
    chip(page, "Kept").click()
    assert page.url.endswith(f"#item={life('lost?', '....')[0].item}&source=other&show=kept")
    page.select_option("#source", "ours")
    assert asks(page) == []


def many(count: int) -> list[AnswerRecord]:
    words = ["the", "answer", "to", "this", "is", "a", "longer", "text", "of", "some", "words", "said", "again"]
    found = []
    for i in range(count):
        signs = ("-+--", "-+-+", "----", "--++", "-+++")[i % 5]
        text = " ".join(words[(i * k) % len(words)] for k in range(60))
        found += life(f"question {i} of many?", signs, answer=f"{i} {text}")
    return found


def test_5000_prompts_without_lag(opened: Any) -> None:
    page = opened(many(5000))
    # From the start of the navigation until the list and the first answers stand.
    ready = page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    assert page.locator("fieldset.states label b").first.inner_text() == "5,000"
    assert ready < 4000
    assert page.locator(".row").count() < 60
    assert page.locator(".rows").evaluate("one => one.offsetHeight") == 5000 * 62

    def typical(script: str) -> float:
        """Milliseconds of the median of 21 steps, each with the layout that it causes.

        The median, because the longest step measures the other processes of a busy machine.
        """
        return page.evaluate(
            f"""() => {{ const took = []; const list = document.querySelector('.list');
            for (let i = 0; i < 21; i++) {{ const from = performance.now(); {script}; document.body.offsetHeight;
            took.push(performance.now() - from); }} return took.sort((a, b) => a - b)[10]; }}"""
        )

    assert typical("list.scrollTop = (i + 1) * 14000; list.dispatchEvent(new Event('scroll'))") < 100
    assert typical("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true}))") < 100
    assert (
        typical("document.body.dispatchEvent(new KeyboardEvent('keydown', {key: String(1 + i % 6), bubbles: true}))")
        < 250
    )
    page.keyboard.press("1")
    page.keyboard.press("End")
    assert page.locator(".turn .text").inner_text() == "question 4999 of many?"
    page.evaluate("window.from = performance.now()")
    page.fill("#search", "question 4711 of")  # the first search also makes the text to search in
    page.locator(".turn", has_text="question 4711 of many?").wait_for()
    assert page.evaluate("performance.now() - window.from") < 2000
    assert asks(page) == ["question 4711 of many?"]


def test_on_a_phone(opened: Any) -> None:
    page = opened(records(), viewport={"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert not page.locator(".detail").is_visible()
    page.locator(".row").nth(1).click()
    assert page.locator(".detail").is_visible() and not page.locator(".list").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator(".back").click()
    assert page.locator(".list").is_visible() and not page.locator(".detail").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(opened: Any, scheme: str) -> None:
    """WCAG contrast of at least 4.5 of verdicts, badges, changes and soft text over what is behind them."""
    answers = life("lost?", "-+--")
    page = opened(answers, [Opinion(answers[1].id, "people", "a", score=1, words="Hm")], color_scheme=scheme)
    page.keyboard.press("d")
    found = page.evaluate(
        """() => Array.from(document.querySelectorAll(".verdict, .badge, ins, del, .scores, .who, .row .about, .tags b, h3")).map(one => {
          let behind = one.parentNode;
          while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentNode;
          return [one.className || one.tagName, getComputedStyle(one).color, getComputedStyle(one).backgroundColor, getComputedStyle(behind).backgroundColor];
        })"""
    )
    assert {"verdict good", "verdict bad", "badge forgotten", "INS", "DEL", "scores", "who"} <= {
        one[0] for one in found
    }
    worst = {name: contrast(*map(channels, colours)) for name, *colours in found}
    assert min(worst.values()) >= 4.5, worst


def test_two_sources_stand_side_by_side_in_one_row(opened: Any) -> None:
    theirs = life("lost?", "-+++", source="theirs", answer="other")[:3]  # none at the last point
    page = opened([*life("lost?", "-+--"), *life("held?", "-+++"), *theirs])
    assert page.locator(".row").count() == 3
    page.select_option("#other", "theirs")
    assert asks(page) == ["lost?", "held?"], "the other source's answers stand beside, and not in rows of their own"
    row = page.locator(".row", has_text="lost?")
    assert row.locator(".marks").count() == 2 and row.locator(".other").inner_text() == "Kept"
    assert page.locator(".row", has_text="held?").locator(".marks").count() == 1, "the other has no answer to it"
    row.click()
    assert page.locator(".side.heads h3").all_inner_texts() == ["ours", "theirs"]
    pairs = page.locator(".side:not(.heads)").all()
    assert len(pairs) == 4 and pairs[1].locator(".text").all_inner_texts() == ["answer at one", "other at one"]
    assert pairs[3].locator("p.same").all_inner_texts() == ["After three: no answer."]
    address = page.url
    assert "beside=theirs" in address
    page.reload()
    assert page.locator(".side.heads h3").count() == 2, "the address keeps it"
    page.select_option("#other", "")
    assert page.locator(".row").count() == 3 and page.locator(".side").count() == 0
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
