"""Learn 20 rows of support answers, score them and export the adapter: the Python of the README.

Run it from the repository's folder. Run it again: it finds the task in the memory and only scores it.
"""

from pathlib import Path

from lifealign import Memory, read_config, task_from_rows

path, adapter = Path("runs/support/memory"), Path("runs/support/adapter")
config = read_config(None, ["model.name=smollm2-135m", "train.epochs=4"])
memory = Memory.open_or_create(path, config)

task = task_from_rows("support-tone", "examples/quickstart/rows.jsonl", test_rows=6)
print(memory.learn(task).scores)  # trains, commits, scores; a task that is already there is only looked up

print("\n".join(memory.evaluate().lines()))  # every task so far, on its held-out rows
print(memory.scores("accuracy"))  # R[k][j]: task j after task k
if not adapter.exists():
    memory.export(adapter)  # for peft, without this package
