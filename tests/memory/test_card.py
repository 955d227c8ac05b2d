"""The model card of an export, and the Modelfile beside a merged GGUF."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from lifealign.core.config import RunConfig
from lifealign.evaluation.gates import Gate
from lifealign.memory.api import Memory
from lifealign.memory.card import to_html
from lifealign.memory.modelfile import go_template, modelfile
from lifealign.testing import TEMPLATE, tiny_tokenizer
from support.rows import make_task

Build = Callable[..., RunConfig]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def memory(config: Build, tmp_path: Path) -> Memory:
    made = Memory.create(tmp_path / "desk", config("train.learning_rate=0.05", "train.epochs=1"))
    made.learn(make_task("bread", train=8, test=4, validation=2))
    made.learn(make_task("stars", train=6, test=3))
    return made


def test_a_card_names_tasks_counts_scores_base_and_how_to_load(memory: Memory, tmp_path: Path, tiny_dir: Path) -> None:
    text = (memory.export(tmp_path / "out") / "README.md").read_text()
    page = (tmp_path / "out" / "card.html").read_text()
    assert "<h1>" in page and "<td>bread</td>" in page and "<script" not in page and "pipeline_tag" not in page
    head = yaml.safe_load(text.split("---")[1])
    assert head == {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lifealign"]}
    assert "aligned on 2 tasks" in text and "the memory `desk` at `0002-stars`" in text
    assert re.search(r"\| bread \| \d{4}-\d\d-\d\d \| \d+ \| \d+ \| 2, 4 \|", text)
    scores = memory.scores()
    row = re.search(r"\| bread \| Preference accuracy \| 4 \| [\d.]+ \| ([\d.]+)% \| none \|", text)
    assert row is not None and float(row[1]) == pytest.approx(scores[1][0], abs=0.5), "four rows carry no interval"
    assert "lifealign evaluate MEMORY --gate" in text and "Licence of the base model: not known" in text
    assert memory._store.identity["base"]["weights"] in text
    assert f'PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("{tiny_dir}"), ".")' in text
    assert "logits differ from the memory's by" in text


def test_a_card_of_an_earlier_point_has_no_later_task(memory: Memory, tmp_path: Path) -> None:
    text = (memory.export(tmp_path / "out", format="merged", as_of="bread") / "README.md").read_text()
    assert "aligned on 1 task\n" in text and "stars" not in text and "--as-of bread" in text
    assert 'library_name: "transformers"' in text and "95% interval" in text


def test_a_memory_s_own_card_has_its_gates_tags_and_note(memory: Memory) -> None:
    memory.tag("now", "v1")
    assert "None was checked at this point" in memory.card()
    memory.check([Gate.parse("last>=101", memory.tasks())], keep=True)
    text = memory.card()
    assert "tagged `v1`" in text and "- `last.accuracy>=101` **failed**: " in text and "## Load it" not in text
    assert "aligned on 1 task\n" in memory.card("bread") and "stars" not in memory.card("bread")


def test_html_in_a_name_or_note_is_shown_as_text() -> None:
    page = to_html("# <b>x</b>\n\n> <script>alert(1)</script> [a](javascript:alert(1))\n")
    assert "<title>&lt;b&gt;x&lt;/b&gt;</title>" in page and "<script" not in page and "href=" not in page


def test_the_licence_comes_from_the_base_model_s_own_card(config: Build, tmp_path: Path, tiny_dir: Path) -> None:
    import shutil

    from lifealign.testing import tiny_config

    base = Path(shutil.copytree(tiny_dir, tmp_path / "base"))
    (base / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    memory = Memory.create(tmp_path / "m", tiny_config(base, tmp_path / "m"))
    text = (memory.export(tmp_path / "out") / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["license"] == "apache-2.0"
    assert "No task is learnt yet" in text and "Nothing was measured" in text


def test_a_modelfile_is_written_beside_a_merged_gguf(memory: Memory, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    out = memory.export(tmp_path / "out", format="gguf")
    lines = (out / "Modelfile").read_text()
    assert lines.startswith('FROM ./model.gguf\nTEMPLATE """') and lines.endswith('PARAMETER stop "<|im_end|>"\n')
    assert "Modelfile: untested with Ollama" in (out / "README.md").read_text()


DEFAULT = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" + TEMPLATE
BOXED = (
    "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}</s>{% else %}<<SYS>>{{ m['content'] }}<</SYS>>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            TEMPLATE,
            "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ else }}{{ end }}{{ range .Messages }}"
            '{{ if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
            '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n{{ end }}{{ end }}'
            "<|im_start|>assistant\n",
        ),
        (
            BOXED,
            "{{ if .System }}<<SYS>>{{ .System }}<</SYS>>{{ else }}{{ end }}{{ range .Messages }}"
            '{{ if eq .Role "user" }}[INST] {{ .Content }} [/INST]'
            '{{ else if eq .Role "assistant" }} {{ .Content }}</s>{{ end }}{{ end }}',
        ),
    ],
    ids=["chatml", "boxed"],
)
def test_turns_become_ollama_s_template(template: str, expected: str) -> None:
    assert go_template(tiny_tokenizer(template)) == expected


def test_a_default_system_turn_is_kept() -> None:
    found = go_template(tiny_tokenizer(DEFAULT))
    assert found is not None and "{{ else }}<|im_start|>system\nBe kind.<|im_end|>\n{{ end }}" in found


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[-1]['content'] }}",
        "{% for m in messages %}{{ loop.index }}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}",
        "{{ raise_exception('no system turn') }}",
    ],
    ids=["drops turns", "counts turns", "refuses"],
)
def test_a_template_that_is_more_than_turns_is_named_and_left_out(template: str) -> None:
    text, notes = modelfile(tiny_tokenizer(template), True, "model.gguf")
    assert "TEMPLATE" not in text and any("without a TEMPLATE" in note for note in notes)
