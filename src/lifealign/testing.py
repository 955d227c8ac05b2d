"""The contract of a strategy as tests that anyone can run over a class of their own, and the tiny model they run on.

Needs pytest. One class is enough; every method of `StrategyContract` becomes a test of it:

    from lifealign.testing import StrategyContract

    class TestNearStart(StrategyContract):
        strategy = "my_strategy.py:NearStart"
        settings = ("strategy.pull=0.5",)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import transformers
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn

from lifealign.core.config import RunConfig
from lifealign.core.progress import NullProgress
from lifealign.core.tensors import decode_tensors, encode_tensors
from lifealign.data.tasks import Message, Row, Task
from lifealign.memory.exporting import write_export
from lifealign.memory.history import StoreHistory
from lifealign.memory.learning import create_memory, learn_group
from lifealign.memory.session import Session, locked
from lifealign.model.adapters import snapshot, trainable
from lifealign.model.batch import PairLogps
from lifealign.model.logps import token_logps
from lifealign.model.packing import pack_pairs
from lifealign.store.layout import ADAPTER, REPLAY, STATE, TRAINING, UPDATE
from lifealign.store.writer import MemoryStore
from lifealign.strategies import make_strategy
from lifealign.strategies.configure import read_config
from lifealign.training import loop
from lifealign.training.strategy import Step, Strategy

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(template: str | None = TEMPLATE) -> transformers.PreTrainedTokenizerFast:
    """A byte-level tokenizer of 300 tokens, made in memory. Its pad token equals its EOS, as in many real models."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["how do I bake bread at home", "the answer is one short sentence"], trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = template
    return fast


def tiny_model(config: transformers.PretrainedConfig, seed: int = 0) -> transformers.PreTrainedModel:
    """A random float32 model of an architecture. Its weights are large enough that answers to two prompts differ."""
    torch.manual_seed(seed)
    config.eos_token_id = config.pad_token_id = 1
    config.bos_token_id = None
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():  # the usual initialisation is so small that all answers look alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    return model.eval()


def save_tiny_model(directory: str | Path, seed: int = 0) -> Path:
    """Save a random two-layer Llama with a chat template as a local model, and return its directory."""
    llama = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    tiny_model(llama, seed).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return Path(directory)


def tiny_rows(task: str, count: int) -> tuple[Row, ...]:
    """Rows that a tiny model can learn to tell apart: the chosen answer names the task."""
    return tuple(
        Row(
            (Message("user", f"{task} question {i}?"),),
            f"{task} answer {i} is right",
            f"no idea of {i * 7 % 11} at all",
            f"{task}.jsonl:{i + 1}",
        )
        for i in range(count)
    )


def tiny_task(name: str, train: int = 8, test: int = 4, validation: int = 2) -> Task:
    """A task of `tiny_rows`."""
    every = tiny_rows(name, train + test + validation)
    return Task(name, every[:train], every[train : train + validation], every[train + validation :])


def tiny_config(model: Path, memory: Path, *settings: str) -> RunConfig:
    """One epoch with rank 2 on a tiny model, without the settings of a preset; settings are those of `--set`."""
    base: dict[str, Any] = {
        "memory": str(memory),
        "preset": "paper",
        "model": {"name": str(model), "dtype": "float32"},
        "lora": {"r": 2, "alpha": 4},
        "data": {"max_length": 256},
        "train": {"epochs": 1, "pairs_per_step": 4, "learning_rate": 5e-3, "checkpoint_every": 1},
        "evaluate": {"bootstrap": 20},
    }
    return read_config(None, settings, base=base)


def start(config: RunConfig) -> tuple[Session, MemoryStore]:
    """A loaded model and a new memory."""
    session = Session(config, NullProgress(), new=True)
    return session, create_memory(config, session)


def learn(session: Session, store: MemoryStore, *tasks: Task) -> MemoryStore:
    """The memory after one task after another."""
    for task in tasks:
        with locked(session, store):
            store = learn_group(session, store, [task], session.config)[1]
    return store


def assert_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    """The same names with the same values, bit for bit."""
    assert set(a) == set(b)
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


class StrategyContract:
    """What every strategy must keep to. Subclass it in a test file and set `strategy`.

    A test that does not apply says so as a skip: only a strategy with `sums_updates` has to go on from one plain adapter,
    and one with a `prefix` is not in the exported weights.
    """

    strategy: ClassVar[str]
    """A name or a reference, as for `strategy.name`."""
    settings: ClassVar[Sequence[str]] = ()
    """More settings, as for `--set`."""
    tasks: ClassVar[Sequence[Task]] = [tiny_task(name, train=6, test=2) for name in ("bread", "stars", "music")]
    """Three tasks of a few rows."""

    @pytest.fixture
    def name(self) -> str:
        """The strategy under test; override it with a parametrised fixture to run the contract over several."""
        return self.strategy

    @pytest.fixture(scope="session")
    @classmethod
    def tiny_dir(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """The model that the tests run on."""
        return save_tiny_model(tmp_path_factory.mktemp("tiny"))

    @pytest.fixture(autouse=True)
    def alone(self, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """One thread, whose sums come in one order, and a private cache."""
        monkeypatch.setenv("LIFEALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)

    @pytest.fixture
    def build(self, name: str, tiny_dir: Path, tmp_path: Path) -> Any:
        """(folder, *settings) -> the configuration of a memory in a folder of the test's own."""

        def build(folder: str = "memory", *settings: str) -> RunConfig:
            return tiny_config(tiny_dir, tmp_path / folder, f"strategy.name={name}", *self.settings, *settings)

        return build

    def test_empty_history_adds_no_penalty_and_leaves_gradients(self, build: Any) -> None:
        """On the first task there is nothing to keep."""
        session, store = start(build())
        strategy, model = session.strategy, session.model
        strategy.begin_task(model, self.tasks[0], StoreHistory(store))
        penalty = strategy.penalty(model)
        assert penalty.shape == () and float(penalty) == 0 and not penalty.requires_grad
        parameters = trainable(model)
        for index, parameter in enumerate(parameters.values()):
            parameter.grad = torch.full_like(parameter, 0.5 + index)
        before = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        strategy.adjust_gradients(Step(model, parameters, session.view.losses_on, 0))
        assert_same({name: p.grad for name, p in parameters.items() if p.grad is not None}, before)

    def test_reopened_after_each_task_equals_one_session(self, build: Any) -> None:
        """Three tasks with dropout: state, replay rows and adapter are all that the next task needs."""
        settings = ("lora.dropout=0.1", "sft.epochs=1")
        session, whole = start(build("once", *settings))
        whole = learn(session, whole, *self.tasks)
        parts = build("parts", *settings)
        start(parts)
        for task in self.tasks:
            fresh, store = Session(parts, NullProgress()), MemoryStore.open(parts.memory)
            learn(fresh, store, task)
        store = MemoryStore.open(parts.memory)
        assert len(store.lineage()) == 4
        assert_same(_tensors(store), _tensors(whole))
        for a, b in zip(store.lineage()[1:], whole.lineage()[1:], strict=True):
            assert store.load_lines(a, REPLAY) == whole.load_lines(b, REPLAY)

    def test_base_weights_are_untouched_and_a_fresh_session_gives_the_live_logps(self, build: Any) -> None:
        """What is learnt is in what is stored, and nowhere else."""
        settings = build("memory", "sft.epochs=1")
        session, store = start(settings)
        before, untrained = _base_sha256(session.model), self._policy_logps(session)
        store = learn(session, store, *self.tasks[:2])
        assert _base_sha256(session.model) == before
        live = self._policy_logps(session)
        assert float((live - untrained).abs().max()) > 1e-3
        fresh = Session(settings, NullProgress())
        assert torch.equal(self._policy_logps(fresh), untrained)
        fresh.load(MemoryStore.open(settings.memory), store.head)
        assert torch.equal(self._policy_logps(fresh), live)

    def test_stored_logps_are_those_of_the_weights_in_the_model(self, build: Any) -> None:
        """The cache of log-probs tells two policies of one state apart."""
        session, store = start(build())
        learn(session, store, *self.tasks[:2])
        session.strategy.select(session.model, self.tasks[1].name)
        pairs = session.encoder.encode(self.tasks[1].test)[0]
        for _ in range(2):
            found = session.view.logps(pairs, base=False, title="policy")
            assert torch.allclose(found, session.view.pair_logps(self.tasks[1].test), atol=1e-5)
            with torch.no_grad():
                for parameter in trainable(session.model).values():
                    parameter.add_(0.1)

    def test_stopped_in_both_stages_equals_not_stopped(self, build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """The second task stops at the last step of each stage; a new session goes on from the checkpoint before it."""
        settings = ("lora.dropout=0.1", "sft.epochs=1", "sft.learning_rate=5e-3")
        session, whole = start(build("whole", *settings))
        whole = learn(session, whole, *self.tasks[:2])
        lines = whole.load_lines(whole.head, TRAINING)
        ends = [max(i for i, line in enumerate(lines, 1) if line["stage"] == stage) for stage in ("sft", "preference")]
        parts = build("parts", *settings)
        session, store = start(parts)
        learn(session, store, self.tasks[0])
        done = 0
        for end in ends:
            with monkeypatch.context() as patch, pytest.raises(_StoppedError):
                _stop_after(patch, end - 1 - done)
                learn(Session(parts, NullProgress()), MemoryStore.open(parts.memory), self.tasks[1])
            done = end - 1  # the checkpoint's steps are not done again
        store = learn(Session(parts, NullProgress()), MemoryStore.open(parts.memory), self.tasks[1])
        assert_same(_tensors(store), _tensors(whole))
        diagnostics = [s.load_document(s.head, "diagnostics.json") for s in (store, whole)]
        assert diagnostics[0] == diagnostics[1]

    def test_a_strategy_that_sums_updates_goes_on_from_one_plain_adapter(self, build: Any) -> None:
        """What `sums_updates` promises; a strategy that adds, selects or restarts must say False."""
        session, store = start(build())
        cls = type(session.strategy)
        if not cls.sums_updates:
            pytest.skip("keeps its tasks in another way")
        for hook in ("schedule", "attach", "prefix", "mount", "select", "to_peft"):
            assert getattr(cls, hook) is getattr(Strategy, hook), hook
        store = learn(session, store, self.tasks[0])
        session.load(store, store.head)
        session.strategy.begin_task(session.model, self.tasks[1], StoreHistory(store))
        assert_same(snapshot(session.model), store.load_tensors(store.head, ADAPTER))

    def test_loss_is_one_finite_value_a_pair_with_gradient(self, build: Any) -> None:
        """On the second task, so that there is a past to look at."""
        session, store = start(build())
        store = learn(session, store, self.tasks[0])
        strategy, model = session.strategy, session.model
        session.load(store, store.head)
        strategy.begin_task(model, self.tasks[1], StoreHistory(store))
        dataset = strategy.training_set(self.tasks[1], StoreHistory(store))
        pairs, _ = session.encoder.encode(dataset.rows)
        pack = pack_pairs(session.view.prefixed(pairs[:3]), range(3), True)
        tokens = token_logps(model, pack)
        policy = tokens.pairs()
        reference = PairLogps(policy.chosen.detach() - 1, policy.rejected.detach() + 2)
        objective = strategy.objective(policy, reference, pack.batch.chosen_lengths_B, pack.batch.rejected_lengths_B)
        loss_B = strategy.loss(replace(pack.batch, token_T=tokens.token_T), policy, reference, objective)
        assert loss_B.shape == (3,) and loss_B.dtype == torch.float32 and bool(loss_B.isfinite().all())
        torch.autograd.backward(loss_B.mean())
        gradients = [p.grad for p in trainable(model).values()]
        assert any(g is not None and float(g.abs().max()) > 0 for g in gradients)
        assert all(bool(g.isfinite().all()) for g in gradients if g is not None)

    def test_state_is_named_tensors_that_survive_a_file(self, build: Any) -> None:
        """`state_dict` is what later tasks need, and `load_state_dict` takes it back."""
        session, store = start(build())
        learn(session, store, *self.tasks[:2])
        state = session.strategy.state_dict()
        assert all(type(k) is str and isinstance(v, Tensor) and not v.requires_grad for k, v in state.items())
        read = decode_tensors(Path("state.safetensors"), encode_tensors(state))
        assert_same(read, state)
        other = make_strategy(session.config.strategy, session.config.lora, 0)
        other.load_state_dict(read)
        assert_same(other.state_dict(), state)

    def test_stock_peft_reads_the_export(self, build: Any, tiny_dir: Path, tmp_path: Path) -> None:
        """The same logits to 1e-5 in a process that knows PEFT alone."""
        session, store = start(build())
        if type(session.strategy).prefix is not Strategy.prefix:
            pytest.skip("its prompts come before the input, not in the weights")
        learn(session, store, *self.tasks[:2])
        session.strategy.select(session.model, None)
        ids = torch.arange(2, 42)[None]
        with torch.no_grad():
            live = session.model(input_ids=ids).logits
        write_export(session, store, store.head, tmp_path / "adapter", "peft")
        base = transformers.AutoModelForCausalLM.from_pretrained(tiny_dir, dtype=torch.float32)
        with torch.no_grad():
            bare = base(input_ids=ids).logits
            read = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(input_ids=ids).logits
        torch.testing.assert_close(read, live, atol=1e-5, rtol=0)
        assert float((bare - live).abs().max()) > 1e-3

    def _policy_logps(self, session: Session) -> Tensor:
        """Log-probs of some rows, with whatever the strategy puts in the model or before a prompt."""
        session.strategy.select(session.model, self.tasks[1].name)
        return session.view.pair_logps(self.tasks[1].test)


class _StoppedError(Exception):
    """Stands for a kill."""


def _stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    real = loop._step
    left = [steps]

    def step(*args: Any) -> Any:
        if not left[0]:
            raise _StoppedError
        left[0] -= 1
        return real(*args)

    patch.setattr(loop, "_step", step)


def _tensors(store: MemoryStore) -> dict[str, Tensor]:
    """All tensors of a memory, by commit and file."""
    found: dict[str, Tensor] = {}
    for manifest in store.lineage():
        for stem in (ADAPTER, STATE, *([UPDATE] if manifest.members else [])):
            found |= {f"{manifest.directory}/{stem}/{k}": v for k, v in store.load_tensors(manifest, stem).items()}
    return found


def _base_sha256(model: nn.Module) -> str:
    """Of the base model's weights; parts that a strategy adds and freezes do not count."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad and "lora_" not in name:
            digest.update(name.encode() + parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
