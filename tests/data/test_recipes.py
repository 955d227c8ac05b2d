from __future__ import annotations

import json
import re

import pytest

from lifealign.core.config import SourceConfig, load_config
from lifealign.core.errors import ConfigError, DataError
from lifealign.data.cleaning import clean, read_rows
from lifealign.data.load import load_stream
from lifealign.data.recipes import RECIPES, TOKENISED, detokenise, find_recipe
from support.paths import ROOT

UPSTREAM = ROOT / "tests" / "fixtures" / "upstream"


def read(name, recipe, seed=0):
    found = read_rows(SourceConfig(path=str(UPSTREAM / name), recipe=recipe), seed)
    return found.rows, found.report


def resplit(recipe, *rows, seed=0):
    records = [dict(zip(("query", "chosen", "rejected"), row, strict=True)) for row in rows]
    return clean(records, "f", RECIPES[recipe], seed)


def test_hc3_upstream():
    rows, report = read("hc3.jsonl", "hc3")
    assert rows[0].chosen == "It doesn't glow; air scatters blue light (more than red), so you see blue."
    assert rows[0].prompt[0].content == "Why is the sky blue ?"
    assert rows[0].rejected.startswith("The sky looks blue")
    assert rows[1].chosen == "A part of a proton."  # the first answer is empty
    assert report.dropped == {"no machine answer": (3,)}
    assert report.repaired == {"tokenised text joined": (1,)}


def test_hc3_resplit_leaves_plain_text_alone():
    found = resplit("hc3", ("q", "Is it ? I ca n't say .", "A ratio of 3 : 4 .5"), ("p", "Plain : text", "b"))
    assert found.rows[0].chosen == "Is it? I can't say."
    assert found.rows[0].rejected == "A ratio of 3 : 4 .5"
    assert found.rows[1].chosen == "Plain : text"
    assert found.report.repaired == {"tokenised text joined": (1,)}


@pytest.mark.parametrize(
    ("tokenised", "joined"),
    [
        ("do n't stop , ( really ) !", "don't stop, (really)!"),
        ('he said " no " and left .', 'he said "no" and left.'),
        ('5 " wide , that is .', '5 " wide, that is.'),  # one quote alone is left
        ("I 'm gon na go , it 's 75 % of $ 5 .", "I'm gonna go, it's 75% of $5."),
        ("a * b - c / d .\nNext line , too .", "a * b - c / d.\nNext line, too."),
        ("wait ... what ?", "wait... what?"),
        ("see .5 and :tag", "see .5 and :tag"),
    ],
)
def test_detokenise(tokenised, joined):
    assert detokenise(tokenised) == joined
    assert detokenise(joined) == joined
    assert not TOKENISED.search(joined)


@pytest.mark.parametrize("recipe", ["hh-harmless", "hh-helpful"])
def test_hh_upstream(recipe):
    rows, report = read("hh.jsonl", recipe)
    (row,) = rows
    assert [(m.role, m.content) for m in row.prompt] == [
        ("user", "Which tea is mild?"),
        ("assistant", "White tea, mostly."),
        ("user", "And how long\ndo I steep it?"),
    ]
    assert row.chosen == "Three minutes.\n\nUse water below boiling."
    assert row.rejected == "As long as you like."
    assert report.dropped == {
        "empty rejected answer": (2,),
        "chosen and rejected do not share a prompt": (3,),
        "dialogue does not end with an assistant turn": (4,),
    }


def test_hh_resplit():
    found = resplit("hh-helpful", ("Human: a\nAssistant: b\nHuman: c", "Assistant: d", "e"))
    assert [m.content for m in found.rows[0].prompt] == ["a", "b", "c"]
    assert (found.rows[0].chosen, found.rows[0].rejected, found.one_sided) == ("d", "e", (1,))


def test_capybara_upstream():
    rows, report = read("capybara.jsonl", "capybara")
    (row,) = rows
    assert [m.content for m in row.prompt] == ["Name a prime.", "Seven.", "A larger one?"]
    assert (row.chosen, row.rejected) == ("Eleven is larger.", "Nine.")
    assert report.dropped == {"prompt is missing": (2,)}
    assert resplit("capybara", ("q", "a", "b")).rows[0].chosen == "a"


def test_safe_rlhf_upstream():
    rows, report = read("safe_rlhf.jsonl", "safe-rlhf")
    # Row 1: the safe answer, although the other one is called better. Row 2: both safe, so the more helpful one.
    assert [(r.chosen, r.rejected) for r in rows] == [
        ("Call a locksmith.", "Kick it in."),
        ("Keep fixed hours and a dark room.", "Sleep."),
    ]
    assert report.dropped == {"neither answer is safe": (3,)}
    assert resplit("safe-rlhf", ("q", "a", "b")).rows[0].rejected == "b"


def test_truthfulqa_upstream():
    rows, report = read("truthfulqa.jsonl", "truthfulqa")
    assert rows[0].chosen == "Yes, fish rest"
    assert {read("truthfulqa.jsonl", "truthfulqa", s)[0][0].rejected for s in range(20)} == {"No", "Only at night"}
    assert read("truthfulqa.jsonl", "truthfulqa", 7)[0] == read("truthfulqa.jsonl", "truthfulqa", 7)[0]
    assert (rows[1].chosen, rows[1].rejected) == ("No, it is an amorphous solid", "Yes")
    assert report.dropped == {"no wrong answer": (3,)}
    assert report.repaired == {"one of several wrong answers chosen": (1,)}


def test_truthfulqa_csv():
    rows, _ = read("TruthfulQA.csv", "truthfulqa")
    assert rows[0].chosen == "None"  # a csv reader that guesses would call it missing
    drawn = {read("TruthfulQA.csv", "truthfulqa", s)[0][0].rejected for s in range(30)}
    assert drawn == {"Only at night", '"Never"', "NA"}
    assert rows[1].rejected == "Yes"


def test_truthfulqa_choice_depends_on_seed_and_content_only():
    joined = ("q", "right", "; ".join(f"wrong {i}" for i in range(8)))
    alone = resplit("truthfulqa", joined).rows[0].rejected
    assert resplit("truthfulqa", ("other", "x", "y; z"), joined).rows[1].rejected == alone
    assert len({resplit("truthfulqa", joined, seed=s).rows[0].rejected for s in range(10)}) > 3


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match=re.escape("unknown recipe 'hh_harmless' (did you mean 'hh-harmless'?)")):
        find_recipe("hh_harmless")


def test_wrong_columns_for_a_recipe_say_what_it_reads():
    with pytest.raises(DataError, match="recipe hc3, question, human_answers, chatgpt_answers"):
        clean([{"a": 1}], "f", RECIPES["hc3"])


def test_recipes_ask_the_hub_for_the_right_part(monkeypatch):
    import datasets

    calls = {}

    def load(path, **options):
        calls[path, options["data_dir"]] = (options["name"], options["revision"], options["split"])
        return [{"prompt": "a", "chosen": "b", "rejected": "c"}]

    monkeypatch.setattr(datasets, "load_dataset", load)
    config = load_config(ROOT / "examples" / "paper.yaml")
    for task in config.stream.tasks:
        for source in filter(None, (task.train, task.test)):
            assert len(read_rows(source).rows) == 1
    assert calls == {
        ("argilla/Capybara-Preferences", None): (None, None, "train"),
        ("Hello-SimpleAI/HC3", "all"): (None, "refs/convert/parquet", "train"),
        ("Anthropic/hh-rlhf", "harmless-base"): (None, None, "test"),
        ("Anthropic/hh-rlhf", "helpful-base"): (None, None, "test"),
        ("PKU-Alignment/PKU-SafeRLHF", None): (None, None, "test"),
        ("truthfulqa/truthful_qa", None): ("generation", None, "validation"),
    }


@pytest.mark.parametrize("name", ["paper.yaml", "real-five.yaml"])
def test_examples_name_only_options_that_the_strategy_has(name):
    from lifealign.strategies import STRATEGIES

    load_config(ROOT / "examples" / name, strategy_configs={n: s.Config for n, s in STRATEGIES.items()})


def test_paper_example_has_the_papers_settings():
    config = load_config(ROOT / "examples" / "paper.yaml")
    assert (config.model.name, config.model.dtype, config.data.max_length) == (
        "Qwen/Qwen2.5-7B-Instruct",
        "bfloat16",
        2048,
    )
    assert (config.sft.epochs, config.sft.learning_rate) == (3, 1e-4)
    assert (config.train.epochs, config.train.learning_rate, config.train.pairs_per_step) == (3, 5e-6, 16)
    assert (config.lora.r, config.lora.alpha, config.lora.target_modules) == (8, 16, ("q_proj", "v_proj"))
    assert config.seed == 42
    assert config.strategy.model_dump() == {
        "name": "lifealign",
        "theta": 0.9,
        "overlap_scale": 0.5,
        "loss": "fpo",
        "gamma": 2.0,
        "beta": 0.1,
        "replay_policy": "oldest_out",
        "replay_share": 0.2,
        "replay_capacity": 3000,
    }
    assert [t.train.recipe for t in config.stream.tasks] == list(RECIPES)


def test_real_five_example_loads(monkeypatch, tmp_path):
    for folder in ("HC3", "hh-rlhf-harmless-base", "hh-rlhf-helpful-base", "safe-rlhf", "TruthfulQA"):
        (tmp_path / folder).mkdir()
        for name, start, count in (("train.json", 0, 120), ("test.json", 120, 10)):
            rows = [
                {"query": f"question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"}
                for i in range(start, start + count)
            ]
            (tmp_path / folder / name).write_text(json.dumps(rows))
    config = load_config(ROOT / "examples" / "real-five.yaml")
    monkeypatch.setenv("LIFEALIGN_DATA", str(tmp_path))
    stream = load_stream(config.stream, config.seed)
    assert [t.name for t in stream.tasks] == ["hc3", "hh-harmless", "hh-helpful", "safe-rlhf", "truthfulqa"]
    assert all((len(t.train), len(t.validation), len(t.test)) == (100, 20, 10) for t in stream.tasks)
    monkeypatch.delenv("LIFEALIGN_DATA")
    with pytest.raises(DataError, match="environment variable LIFEALIGN_DATA is not set"):
        load_stream(config.stream, config.seed)
