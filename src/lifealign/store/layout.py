"""Every name in a memory's directory, once.

store.json                     STORE        what the memory is tied to: base model, tokenizer, strategy, configuration
HEAD                           HEAD         the newest task and the checksum of its manifest
tasks/<index>-<slug>/          TASKS        one commit each; 0000-initial (ROOT) comes before any task
tasks/*/task.json              TASK         the manifest, written last
tasks/*/adapter.safetensors    ADAPTER      ... and the other files below
evaluations/<number>.json      EVALUATIONS  append-only: rows of R and guards
tags.json                      TAGS         names for points; missing until the first one is given
aside/                         ASIDE        files that a repair moved out of the way; not verified
work/                          WORK         checkpoints of unfinished work and trackers' files; not verified
.lock, CREATING, PENDING                    the writer's lock, and marks of a writer that was killed
"""

from __future__ import annotations

STORE = "store.json"
HEAD = "HEAD"
TASKS = "tasks"
TASK = "task.json"
ROOT = "0000-initial"
EVALUATIONS = "evaluations"
TAGS = "tags.json"
WORK = "work"
ASIDE = "aside"
TRACKERS = "trackers"
"""Below `WORK`: files of experiment trackers."""
LIVE = "live-*.jsonl"
"""Beside checkpoints: the steps of a stage that is being trained, for whoever watches; each start has a name of its own."""

LOCK = ".lock"
# CREATING exists while a memory is being made, PENDING while a commit may be in place that HEAD does not name yet. They
# distinguish what a killed writer left behind from a user's own files and from tasks that were rolled back.
CREATING = "CREATING"
PENDING = "PENDING"

# Stems of a commit's tensor files.
ADAPTER = "adapter"
"""Long-term weights after the task."""
UPDATE = "update"
"""What the task changed in the long-term weights."""
STATE = "state"
"""The strategy's state."""
SIGNATURE = "signature"
"""Where the task's prompts lie in the base model's hidden space."""
START = "start"
"""Weights that a task was learnt on, if its commit took the update of another task out first."""
SLEEP = "sleep"
"""One adapter that was taught what the updates of all tasks know; only of commits after a sleep that was worth it."""
IMPORTED = "imported"
"""An adapter that the memory begins with: name of its task, key of a manifest's `meta`, and stem of its tensors in the root."""

# A commit's documents and lines.
REPLAY = "replay.jsonl"
"""Rows kept for replay."""
HELDOUT = "heldout.jsonl"
"""Held-out rows of the commit's tasks."""
DATA = "data.json"
"""How the rows were read and encoded."""
TRAINING = "training.jsonl"
"""One line for each optimizer step."""
DIAGNOSTICS = "diagnostics.json"
"""Measurements by the strategy at the end of the task."""
RETIRED = "retired.json"
"""How tasks were retired by the commit; only of commits that retire some."""
RECOVERED = "recovered.json"
"""How a task was recovered by the commit; only of commits that recover one."""
RECOVERS = "recovers"
"""Key of a manifest's `meta`: name of the task that the commit recovers; missing if it recovers none."""
RETIRES = "retires"
"""Key of a manifest's `meta`: names of the tasks that the commit retires; missing if it retires none."""

# Kinds of evaluation records.
ROW_RECORD = "row"
ONE_ADAPTER = "one_adapter"
"""Option of a row record: scores of the one adapter that an export of a routed memory holds, not of routed prompts."""
GUARD_RECORD = "guard"
GATE_RECORD = "gates"
DRIFT_RECORD = "drift"

WARNINGS = "warnings"
"""Key of evaluation records and of results: sentences about the values, such as changed code; missing if there are none."""
RULES = "checkers"
"""Key of `DATA` and of evaluation records: rule from outside -> its origin, or a sentence that tells why it was missing."""
