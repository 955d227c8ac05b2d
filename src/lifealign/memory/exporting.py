"""Write what a memory has learnt for other tools, load it again, and compare it with the memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from lifealign.core.errors import ConfigError, StoreError
from lifealign.core.files import open_to_umask, staged_directory, write_file, writing
from lifealign.core.json_codec import to_json
from lifealign.core.version import __version__
from lifealign.data.tasks import Message
from lifealign.memory.card import CARD, CARD_PAGE, card, to_html
from lifealign.memory.early import which_format
from lifealign.memory.modelfile import MODELFILE, modelfile
from lifealign.memory.routing import routes_prompts
from lifealign.memory.session import Session
from lifealign.memory.vllm_folder import COMMAND, copy_processors, vllm_command
from lifealign.model import gguf_files, reloading
from lifealign.model.adapters import causal_lm
from lifealign.model.generate import stop_at
from lifealign.model.gguf_files import TYPES
from lifealign.model.gguf_layout import Layout, load_gguf
from lifealign.model.gguf_tokenizer import copy_fields, write_tokenizer
from lifealign.model.names import WHEELS
from lifealign.model.reloading import Answers, Difference
from lifealign.model.wheels import quiet, wheel_gguf
from lifealign.store.heldout import heldout
from lifealign.store.manifest import TaskManifest
from lifealign.store.reader import MemoryReader
from lifealign.training.strategy import Strategy

REPORT = "export.json"
"""File of an export that names what was written, of which memory, and how it compares with it."""
MODEL_FILE, ADAPTER_FILE = "model.gguf", "adapter.gguf"
TEXTS = 4
"""Most texts that an export is compared on."""
TOKENS = 256
"""Most tokens of each."""


@dataclass
class Work:
    """One export while it is written.

    Attributes:
        session: of the memory; its model is given up after the export is written.
        model: the PEFT model to write.
        staged: where to write.
        out: where it will be; for messages.
        before: logits of the memory.
        number: format of the numbers of a merged GGUF.
        notes: what a user must know of the export; written into its report.
    """

    session: Session
    model: Any
    staged: Path
    out: Path
    before: Answers
    number: str
    notes: list[str] = field(default_factory=list)


def write_export(
    session: Session,
    store: MemoryReader,
    until: TaskManifest,
    out: Path,
    form: str,
    number: str | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write the model that a session holds, load it again, and keep how it compares with the memory in `REPORT`.

    The session cannot be used for anything else afterwards.

    Args:
        session: of the memory, with the weights to export.
        store: the memory; its held-out rows are what the models are compared on.
        until: the point of the memory's life that the weights belong to.
        out: a directory that is missing or empty.
        form: a key of `FORMATS`.
        number: one of `gguf_files.TYPES` for `gguf`; None: the first.
        notes: more that a user must know, for the report and the card.

    Raises:
        ConfigError: an unknown format, or the strategy's adapter or the base model has no such form.
        ModelError: loaded again, the export lacks what was learnt; then nothing is left at `out`.
        StoreError: `out` cannot be written; then nothing is left there.
    """
    write = FORMATS[which_format(form)]
    if number is not None and (form != "gguf" or number not in TYPES):
        raise ConfigError(f"--gguf-type {number}: only with --format gguf; allowed: {', '.join(TYPES)}")
    if form in GGUF:
        Layout(session.base.model.config)  # refused before any work
    if session.encoder.chat is not None and session.encoder.writes_date:
        session.base.tokenizer.chat_template = session.encoder.chat.pinned  # the prompts that were learnt
    before = _answers(session, store, until, form)
    model: Any = session.strategy.to_peft(session.model)
    if form != "peft" and not hasattr(model, "merge_and_unload"):
        raise ConfigError(
            f"the adapter of strategy {session.config.strategy.name} cannot be merged into the model's weights; "
            "export with --format peft"
        )
    with writing(out):
        if not out.parent.exists():
            out.parent.mkdir(parents=True)
        with staged_directory(out) as staged:
            work = Work(session, model, staged, out, before, number or TYPES[0], list(notes))
            trained, found = write(work)
            difference = before.compared(found)
            reloading.check_difference(out, difference, form == "gguf" and work.number != "f32")
            _describe_export(work, store, until, form, difference, len(trained))
            open_to_umask(staged)
    return out


def _describe_export(
    work: Work, store: MemoryReader, until: TaskManifest, form: str, difference: Difference, parts: int
) -> None:
    """Write the report, the model card and, beside a merged GGUF, the Modelfile."""
    session = work.session
    if form == "gguf":
        text, said = modelfile(session.base.tokenizer, session.encoder.template == "chat", MODEL_FILE)
        write_file(work.staged / MODELFILE, text.encode())
        work.notes += said
    report = {
        "format": form,
        "memory": store.path.name,
        "task": until.directory,
        "base": dict(session.base.identity),
        "lifealign_version": __version__,
        "trained_parts": parts,
        "difference": difference.to_json(),
        "notes": [difference.line(), *work.notes],
    }
    write_file(work.staged / REPORT, (to_json(report) + "\n").encode())
    source = str(session.base.model.config._name_or_path)
    text = card(store, until, report, source, _licence(session), one_adapter=routes_prompts(store, until))
    write_file(work.staged / CARD, text.encode())
    write_file(work.staged / CARD_PAGE, to_html(text.split("---\n", 2)[2]).encode())


def _answers(session: Session, store: MemoryReader, until: TaskManifest, form: str) -> Answers:
    """Logits of the memory as it is exported, on some of its held-out rows."""
    if form != "peft":
        # In float32 whatever the base was loaded in: small updates would be lost in bfloat16.
        session.model.float()
    texts = _texts(session, store, until)
    # A prompt of virtual tokens can only be exported as it is for the last task.
    prompts = type(session.strategy).prefix is not Strategy.prefix
    session.strategy.select(session.model, until.members[-1] if prompts and until.members else None)
    return reloading.answers(session.model, texts, session.strategy.prefix(texts) if prompts else ())


def _texts(session: Session, store: MemoryReader, until: TaskManifest) -> list[list[int]]:
    """Token ids of a held-out row of each of the last tasks, prompt and better answer; of a greeting without any."""
    rows = [row for task in heldout(store, until) for row in (*task.test, *task.validation)[:1]][-TEXTS:]
    pairs, _ = session.encoder.encode(rows, allow_none=True)
    texts = [[*pair.prompt, *pair.chosen][:TOKENS] for pair in pairs]
    return texts or [session.encoder.prompt_ids((Message("user", "Good morning. How are you today?"),))]


@contextmanager
def _saving(out: Path) -> Iterator[None]:
    """Turn what safetensors raises when the disk is full into a StoreError."""
    try:
        with quiet(), torch.no_grad():
            yield
    except SafetensorError as error:
        raise StoreError(f"{out}: cannot be written: {error}; what was stored before is untouched") from error


Written = tuple[Mapping[str, str], Sequence[Tensor]]
"""Checksums of the trained parts, and the logits of the export after it was loaded again."""


def _write_peft(work: Work) -> Written:
    """A PEFT adapter with the tokenizer."""
    base = work.session.base
    source = str(base.model.config._name_or_path)
    work.model.peft_config["default"].base_model_name_or_path = source
    with _saving(work.out):
        work.model.save_pretrained(str(work.staged))
    base.tokenizer.save_pretrained(str(work.staged))
    trained = reloading.adapter_checksums(work.model)
    dtype, device = base.model.dtype, work.session.accelerator.device
    reloading.release(work.model)
    model = reloading.load_adapter(work.staged, source, work.session.config.model.revision, dtype, device)
    reloading.check_modules(work.out, trained, reloading.adapter_checksums(model))
    return trained, reloading.logits(model, work.before.texts)


def _write_merged(work: Work) -> Written:
    """The base model with the adapter merged in, in float32, and the tokenizer."""
    modules = reloading.adapted_modules(work.model)
    model: Any = work.model.merge_and_unload()
    assert model is causal_lm(model)
    stop_at(model, work.session.encoder.ends)
    with _saving(work.out):
        model.save_pretrained(str(work.staged))
    work.session.base.tokenizer.save_pretrained(str(work.staged))
    trained = reloading.weight_checksums(model, modules)
    reloading.release(model)
    loaded = reloading.load_model(work.staged, work.session.accelerator.device)
    reloading.check_modules(work.out, trained, reloading.weight_checksums(loaded, modules))
    return trained, reloading.logits(loaded, work.before.texts)


def _write_vllm(work: Work) -> Written:
    """The merged model as vLLM serves it, and the command that does."""
    base, chat = work.session.base, work.session.encoder.template == "chat"
    if not chat:
        base.tokenizer.chat_template = None  # the prompts that were learnt are plain texts
    written = _write_merged(work)
    source = str(base.model.config._name_or_path)
    copied = copy_processors(source, work.session.config.model.revision, work.staged)
    text, notes = vllm_command(work.out, _base_name(work.session), chat, copied)
    write_file(work.staged / COMMAND, text.encode())
    work.notes += notes
    return written


def _write_gguf(work: Work) -> Written:
    """The merged model as one GGUF file."""
    modules = reloading.adapted_modules(work.model)
    model: Any = work.model.merge_and_unload()
    path = work.staged / MODEL_FILE
    trained = gguf_files.write_model(model, path, work.number, lambda writer: _describe(work.session, writer), modules)
    reloading.check_modules(work.out, trained, gguf_files.put_model(model, path))
    work.notes += [f"matrices in {work.number}", *_gguf_notes(work.session)]
    return trained, reloading.logits(model, work.before.texts)


def _write_gguf_lora(work: Work) -> Written:
    """The adapter as a GGUF file, for the base model as another one."""
    path = work.staged / ADAPTER_FILE
    trained = gguf_files.write_adapter(work.model, path, f"LoRA for {_base_name(work.session)}")
    reloading.check_modules(work.out, trained, gguf_files.put_adapter(work.model, path))
    work.notes += _gguf_notes(work.session)
    return trained, reloading.logits(work.model, work.before.texts)


def _gguf_notes(session: Session) -> list[str]:
    notes = ["the file was read back and computed by transformers; llama.cpp was not run"]
    if session.encoder.template == "plain":
        notes.append("no chat template: the memory was trained on plain text with the roles User and Assistant")
    return [*notes, *Layout(session.base.model.config).notes()]


def _licence(session: Session) -> str | None:
    """The licence of the base model, from the GGUF file or the model card that it came with; None: not known."""
    name = session.config.model.name
    if name in WHEELS:
        with wheel_gguf(name) as source:
            field = load_gguf().GGUFReader(source).fields.get("general.license")
            return None if field is None else str(field.contents())
    path = Path(name).expanduser() / CARD
    head = path.read_text(encoding="utf-8", errors="replace").split("---")[1:2] if path.is_file() else []
    found = re.search(r"^license: *['\"]?([\w.+-]+)", head[0], re.MULTILINE) if head else None
    return found and found[1]


def _base_name(session: Session) -> str:
    return Path(session.config.model.name).name


def _describe(session: Session, writer: Any) -> None:
    """The name, the licence and the tokenizer of a merged model; where a GGUF file carries the base, from that file."""
    name, chat = session.config.model.name, session.encoder.template == "chat"
    writer.add_name(f"{_base_name(session)} aligned by lifealign")
    if name in WHEELS:
        with wheel_gguf(name) as source:
            copy_fields(source, writer, "general.license")
            copy_fields(source, writer, "tokenizer.", ("tokenizer.chat_template",))
        if chat:
            writer.add_chat_template(str(session.base.tokenizer.chat_template))
        return
    rows = session.base.model.get_input_embeddings().weight.shape[0]
    write_tokenizer(session.base.tokenizer, rows, chat, writer)
    if others := [end for end in session.encoder.ends if end != session.base.tokenizer.eos_token_id]:
        writer.add_eot_token_id(others[0])  # where the template ends an answer


GGUF = ("gguf", "gguf-lora")
"""Formats for llama.cpp."""
FORMATS: Mapping[str, Callable[[Work], Written]] = {
    "peft": _write_peft,
    "merged": _write_merged,
    "vllm": _write_vllm,
    "gguf": _write_gguf,
    "gguf-lora": _write_gguf_lora,
}
"""Format of `lifealign export` -> what writes it."""
