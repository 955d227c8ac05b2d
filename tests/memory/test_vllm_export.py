"""The folder for vLLM, and the names in exports of a model with a vision tower. vLLM itself is not run."""

from __future__ import annotations

import json
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors import safe_open

from lifealign.memory.api import Memory
from lifealign.testing import tiny_config, tiny_task
from support.adapters import IDS, wrapper

pytestmark = pytest.mark.usefixtures("one_thread")


def taught(base: Path, path: Path, *settings: str) -> Memory:
    memory = Memory.create(path, tiny_config(base, path, "train.learning_rate=5e-2", *settings))
    memory.learn(tiny_task("tone"))
    return memory


def names(folder: Path) -> set[str]:
    found: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            found |= set(tensors.keys())
    return found


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    found: torch.Tensor = model.eval()(input_ids=IDS).logits[0]
    return found


def test_the_folder_holds_what_a_server_needs(tiny_dir: Path, tmp_path: Path) -> None:
    memory = taught(tiny_dir, tmp_path / "memory")
    out = memory.export(tmp_path / "it is served", format="vllm")
    files = {p.name for p in out.iterdir()}
    assert files >= {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "serve.sh",
        "README.md",
    }
    assert transformers.AutoTokenizer.from_pretrained(out).chat_template
    report = json.loads((out / "export.json").read_text())
    assert report["format"] == "vllm" and report["difference"]["mean"] < 1e-4
    script = (out / "serve.sh").read_text()
    assert f'exec vllm serve "$(dirname "$0")" --served-model-name {tiny_dir.name} --dtype float32 "$@"' in script
    assert any(f"vllm serve '{out}'" in note and "untested" in note for note in report["notes"])
    merged = memory.export(tmp_path / "merged", format="merged")
    model = transformers.AutoModelForCausalLM
    assert torch.equal(logits(model.from_pretrained(out)), logits(model.from_pretrained(merged)))


def test_a_memory_without_a_chat_template_gives_none(tiny_dir: Path, tmp_path: Path) -> None:
    out = taught(tiny_dir, tmp_path / "memory", "model.template=plain").export(tmp_path / "out", format="vllm")
    assert transformers.AutoTokenizer.from_pretrained(out).chat_template is None
    assert any("use /v1/completions" in note for note in json.loads((out / "export.json").read_text())["notes"])


def test_exports_of_a_model_with_vision_have_the_names_of_its_checkpoint(tmp_path: Path) -> None:
    base = wrapper(tmp_path / "base")
    (base / "preprocessor_config.json").write_text('{"image_processor_type": "Gemma3ImageProcessor"}')
    memory = taught(base, tmp_path / "memory")
    adapter, folder = memory.export(tmp_path / "adapter"), memory.export(tmp_path / "folder", format="vllm")
    assert names(folder) == names(base)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["Gemma3ForConditionalGeneration"]
    assert (folder / "preprocessor_config.json").read_bytes() == (base / "preprocessor_config.json").read_bytes()

    original = transformers.Gemma3ForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    before = logits(original)
    tuned = peft.PeftModel.from_pretrained(original, adapter)
    assert names(adapter) == set(peft.get_peft_model_state_dict(tuned))
    assert float((logits(tuned) - before).abs().mean()) > 1e-2  # the adapter is at work in the checkpoint's own class
    merged = transformers.Gemma3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    assert torch.allclose(logits(merged), logits(tuned), atol=1e-4, rtol=0)
