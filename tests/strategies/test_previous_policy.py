"""CPPO and COPR both look at the policy before the task."""

from __future__ import annotations

import pytest
import torch

from lifealign.core.progress import NullProgress
from lifealign.memory.session import Session
from lifealign.store.layout import ADAPTER, STATE
from lifealign.store.writer import MemoryStore
from lifealign.training.strategy import Step
from support.balance import BREAD, STARS, Build, losses
from support.lives import learn, start

pytestmark = pytest.mark.usefixtures("one_thread")


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("name", ["agem", "copr", "cppo", "gem", "ogpsa"])
def test_stopped_inside_a_task_goes_on_bit_for_bit(name: str, config: Build) -> None:
    """Stopped in the fifth of six steps of the second task, one after the checkpoint: for ogpsa between two refreshings."""
    extra = {"ogpsa": ["strategy.refresh=3"], "cppo": ["strategy.window=4", "strategy.threshold_std=0.3"]}.get(name, [])
    settings = [f"strategy.name={name}", *extra, "lora.dropout=0.1", "train.epochs=2", "train.pairs_per_step=2"]
    settings += ["train.checkpoint_every=4", "sft.epochs=1"]
    memory = config().memory
    session, store = start(config(*settings, f"memory={memory}-whole"))
    whole = learn(session, store, BREAD, STARS)

    parts = config(*settings, f"memory={memory}-parts")
    session, store = start(parts)
    store = learn(session, store, BREAD)
    real = session.strategy.adjust_update

    def adjust(step: Step) -> None:
        if step.stage == "preference" and step.index == 4:
            raise StoppedError
        real(step)

    session.strategy.adjust_update = adjust  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        learn(session, store, STARS)
    fresh, store = Session(parts, NullProgress()), MemoryStore.open(parts.memory)
    store = learn(fresh, store, STARS)
    for stem in (ADAPTER, STATE):
        a, b = (s.load_tensors(s.head, stem) for s in (store, whole))
        assert set(a) == set(b) and all(torch.equal(a[k], b[k]) for k in a), stem
    assert losses(store) == losses(whole)
