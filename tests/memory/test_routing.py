"""Routed memories: each prompt is answered and scored by the updates of the tasks that it may belong to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lifealign.core.config import RunConfig
from lifealign.core.errors import ConfigError
from lifealign.data.tasks import Message
from lifealign.memory.api import Memory
from lifealign.memory.composer import Composer
from lifealign.memory.routing import Routes, calibration_line, why_not_routed
from lifealign.memory.signatures import Calibration
from lifealign.model.adapters import restore
from lifealign.strategies.configure import read_config
from support.progress import Said
from support.rows import make_task

NAMES = ("bread", "stars", "music")
TASKS = [make_task(name, train=8, test=4, validation=17) for name in NAMES]
PROMPTS = ["bread question 40?", "stars question 41?", "music question 42?", "stars question 43?"]
STRANGE = "zzz 777 %%% qqq xyz 000 ### vvv www 555"
Build = Callable[..., RunConfig]

pytestmark = pytest.mark.usefixtures("one_thread")


def learn(config: Build, path: Path, *settings: str) -> Memory:
    memory = Memory.create(
        path, config("train.learning_rate=0.03", "evaluate.before=false", "train.epochs=2", *settings)
    )
    for task in TASKS:
        memory.learn(task)
    return memory


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory, tiny_dir: Path) -> Memory:
    path = tmp_path_factory.mktemp("routed") / "memory"

    return learn(
        lambda *settings: read_config(None, [f"model.name={tiny_dir}", *settings]),
        path,
        "strategy.route=true",
        "evaluate.generations=1",
    )


def ids_of(memory: Memory, prompts: list[str]) -> list[tuple[int, ...]]:
    session = memory._session(memory.config, None)
    return [tuple(session.encoder.prompt_ids((Message("user", p),))) for p in prompts]


def test_prompts_go_to_their_task_and_strange_ones_to_none(routed: Memory) -> None:
    session, store = routed._session(routed.config, None), routed._store
    routes = Routes(store, store.head)
    found = routes.router.tasks(session.view, ids_of(routed, [*PROMPTS, STRANGE]))
    assert [set(tasks) >= {own} for tasks, own in zip(found, ("bread", "stars", "music", "stars"), strict=False)] == [
        True
    ] * 4
    assert found[4] == ()
    groups = routes.groups(session.view, [*ids_of(routed, [PROMPTS[0], STRANGE]), ()])
    assert [list(g.members) for g in groups] == [[0], [1, 2]] and groups[1].tasks == ()
    head = Composer(store, store.head)(dict.fromkeys(NAMES, 1.0)).adapter
    assert all(torch.equal(groups[1].adapter[name], tensor) for name, tensor in head.items())
    only = Composer(store, store.head)({n: float(n in groups[0].tasks) for n in NAMES}).adapter
    assert all(torch.equal(groups[0].adapter[name], tensor) for name, tensor in only.items())


def test_scores_and_answers_are_those_of_the_weights_that_each_prompt_gets(routed: Memory) -> None:
    session, store = routed._session(routed.config, None), routed._store
    routes = Routes(store, store.head)
    ids = ids_of(routed, PROMPTS)
    chosen = routes.router.tasks(session.view, ids)
    answers = routed.generate(PROMPTS, max_new_tokens=8)
    for prompt, tasks, answer in zip(PROMPTS, chosen, answers, strict=True):
        assert routed.generate([prompt], weights=routes.weights(tasks), max_new_tokens=8) == [answer]
    assert routed.generate(PROMPTS, route=False, max_new_tokens=8) != answers
    session.load(store, store.head)
    scored = session.score("stars", TASKS[1].test, None, generations=0, max_new_tokens=1, title="t").rows["margin"]
    tasks = routes.router.tasks(session.view, [tuple(session.encoder.prompt_ids(r.prompt)) for r in TASKS[1].test])
    for row, margin, own in zip(TASKS[1].test, scored, tasks, strict=True):
        session.load(store, store.head, route=False)
        restore(session.model, routes.adapter(own))
        alone = session.score("stars", [row], None, generations=0, max_new_tokens=1, title="t").rows["margin"]
        assert alone == [pytest.approx(margin, abs=1e-5)]


def test_rows_of_r_are_routed_as_the_memory_was_at_each_point(routed: Memory, tiny_dir: Path, tmp_path: Path) -> None:
    """With one task learnt there is one to route to, so its cell is that of the plain sum; later ones differ."""
    plain = learn(lambda *settings: read_config(None, [f"model.name={tiny_dir}", *settings]), tmp_path / "plain")
    ours, theirs = routed.scores("margin"), plain.scores("margin")
    assert ours[0][0] == pytest.approx(theirs[0][0], abs=1e-4)
    assert abs(ours[2][0] - theirs[2][0]) > 1e-3
    assert plain.generate(PROMPTS, max_new_tokens=8) == plain.generate(PROMPTS, route=False, max_new_tokens=8)
    assert plain.generate(PROMPTS, route=True, max_new_tokens=8) == routed.generate(PROMPTS, max_new_tokens=8)


def test_how_sure_the_routing_is_comes_out_once(routed: Memory) -> None:
    said = Said()
    again = Memory.open(routed.path)
    again.generate(PROMPTS, max_new_tokens=2, progress=said)
    again.generate(PROMPTS, max_new_tokens=2, progress=said)
    assert [line for line in said.lines if line.startswith("routing")] == [
        "routing, calibrated on 51 held-out prompts of 3 tasks: 100% are nearest to their own task"
    ]
    bare = calibration_line(Calibration(0.5, 0.05, float("inf"), 0, float("nan")), 2)
    assert bare.startswith("routing is not calibrated, because no task has enough prompts")
    few = calibration_line(Calibration(0.5, 0.05, float("inf"), 10, 1.0), 2)
    assert few.endswith("; these are too few to tell a prompt of no task")


def test_a_withdrawn_task_is_not_routed_to(config: Build, tmp_path: Path) -> None:
    memory = learn(config, tmp_path / "memory", "strategy.route=true")
    memory.withdraw("stars")
    routes = Routes(memory._store, memory._store.head)
    assert routes.router.names == ("bread", "music")
    session = memory._session(memory.config, None)
    chosen = routes.router.tasks(session.view, ids_of(memory, PROMPTS))
    assert "stars" not in {name for tasks in chosen for name in tasks} and "bread" in chosen[0]


def test_what_cannot_be_routed_is_refused_with_the_reason(config: Build, tmp_path: Path) -> None:
    memory = Memory.create(tmp_path / "memory", config("strategy.route=true"))
    assert "no task learnt up to" in str(why_not_routed(memory._store, memory._store.head))
    assert len(memory.generate(PROMPTS[:1], max_new_tokens=2)) == 1  # the base model answers
    with pytest.raises(ConfigError, match=r"strategy.route=true answers .* strategy single does not keep a sum"):
        Memory.create(tmp_path / "other", config("strategy.name=single", "strategy.route=true"))
