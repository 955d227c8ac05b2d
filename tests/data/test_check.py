"""`lifealign check-data`: what it finds in a file of rows."""

from __future__ import annotations

import json

import pytest

from lifealign.data.check import check_data
from lifealign.data.recipes import TOKENISED
from support.records import RESPLIT, assistant, read, user, write_jsonl


def test_check_data(tmp_path):
    train = write_jsonl(
        tmp_path / "train.jsonl",
        [
            {"prompt": "One", "chosen": "Assistant: long answer", "rejected": "short"},
            {"prompt": "one ", "chosen": "abc", "rejected": "abcdef"},
            {"prompt": "Two", "chosen": "abcd", "rejected": "ab"},
            {"prompt": [user("Three")], "chosen": [assistant("abcd")], "rejected": [assistant("wxyz")]},
            {"prompt": "Four", "chosen": "x", "rejected": "x"},
        ],
    )
    test = write_jsonl(tmp_path / "test.jsonl", [{"prompt": "TWO", "chosen": "c", "rejected": "d"}])
    found = check_data(train, test=test)
    value = json.loads(json.dumps(found.to_json()))
    assert value["formats"] == {"strings": 4, "messages": 1}
    assert value["one_sided_prefix"] == [1] and value["one_sided_prefix_share"] == 0.2
    assert value["longer_chosen"] == pytest.approx(2 / 3)  # rows 1 and 3 of 1, 2, 3; row 4 is a tie
    assert value["repeated_prompts"] == [2]
    assert value["prompts_on_both_sides"] == [3]
    assert value["report"]["dropped"] == {"equal answers": [5]}
    assert value["lengths"]["chosen"] == {"shortest": 3, "median": 4.0, "mean": 5.5, "longest": 11}
    assert value["lengths"]["prompt"] == {"shortest": 3, "median": 3.5, "mean": 3.75, "longest": 5}
    text = "\n".join(found.lines())
    for part in (
        "dropped 1 row: equal answers (row 5)",
        "20.0% of rows (row 1)",
        "the chosen answer is the longer one in 66.7% of rows",
        "prompt also in the test rows: row 3",
    ):
        assert part in text
    nothing = check_data(write_jsonl(tmp_path / "none.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}]))
    assert nothing.longer_chosen is None and nothing.lengths == {} and nothing.report.kept == 0


def test_resplit_rows_giveaways_are_gone():
    harmless = check_data(RESPLIT / "hh-harmless" / "train.json", "hh-harmless")
    helpful = check_data(RESPLIT / "hh-helpful" / "train.json", "hh-helpful")
    assert (harmless.one_sided_prefix, helpful.one_sided_prefix) == ((1, 2, 4, 5, 7), (1, 2, 5, 6))
    rows, _ = read(RESPLIT / "hh-helpful" / "train.json", recipe="hh-helpful")
    assert not any(a.lstrip().startswith("Assistant:") for r in rows for a in (r.chosen, r.rejected))
    assert [len(r.prompt) for r in rows] == [3, 1, 3]

    # HC3: four chosen answers are tokenised, two of them in dropped rows, and no rejected one is.
    raw_rows = json.loads((RESPLIT / "hc3" / "train.json").read_text(encoding="utf-8"))
    assert [number for number, r in enumerate(raw_rows, 1) if TOKENISED.search(r["chosen"])] == [1, 2, 3, 5]
    rows, report = read(RESPLIT / "hc3" / "train.json", recipe="hc3")
    assert report.repaired["tokenised text joined"] == (1, 2)
    assert not any(TOKENISED.search(a) for r in rows for a in (r.chosen, r.rejected))

    # TruthfulQA: rejected answers join several wrong ones, so the shorter answer is the right one.
    raw = check_data(RESPLIT / "truthfulqa" / "train.json")
    mended = check_data(RESPLIT / "truthfulqa" / "train.json", "truthfulqa")
    assert mended.report.repaired["one of several wrong answers chosen"] == (1, 2, 3, 5)
    assert raw.longer_chosen is not None and raw.longer_chosen == 0.2
    assert mended.longer_chosen is not None and mended.longer_chosen > 0.5
