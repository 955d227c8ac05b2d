"""The doors: each reads one kind of input as a command does. Add yours to `DOORS`, and `make fuzz` tries it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from fuzz import inputs


@dataclass(frozen=True)
class Door:
    """One way into the program.

    Attributes:
        name: in the table, and folder of its failures.
        inputs: bytes to try.
        enter: reads the bytes; gets an empty folder for files. Ends in a value (accepted) or a `UserError` (refused); anything else
            is a failure.
    """

    name: str
    inputs: st.SearchStrategy[bytes]
    enter: Callable[[bytes, Path], object]


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes, Path], object]:
    def enter(data: bytes, folder: Path) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return enter


def _rows(path: Path) -> object:
    from lifealign.core.config import SourceConfig
    from lifealign.core.json_codec import to_json
    from lifealign.data.cleaning import read_source

    report = read_source(SourceConfig(path=str(path))).report
    return "\n".join(report.lines()).encode(), to_json(report.to_json()).encode()


def _log(path: Path) -> object:
    from lifealign.data.collecting.log import read_log

    return read_log(str(path))


def _prompts(path: Path) -> object:
    from lifealign.data.prompts import read_prompts

    return read_prompts(str(path))


def _answers(path: Path) -> object:
    from lifealign.data.answers import read_answers

    return [record.to_json() for record in read_answers(path)]


def _run(path: Path) -> object:
    from lifealign.core.config import load_config
    from lifealign.strategies import STRATEGIES

    return load_config(path, (), {name: one.Config for name, one in STRATEGIES.items()}).model_dump_json()


def _set(data: bytes, folder: Path) -> object:
    from lifealign.core.config import load_config
    from lifealign.strategies import STRATEGIES

    text = data.decode("utf-8", "surrogateescape")
    return load_config(None, (text,), {name: one.Config for name, one in STRATEGIES.items()}).model_dump_json()


def _study(path: Path) -> object:
    from lifealign.studies.config import load_study

    return load_study(path)


def _rubric(path: Path) -> object:
    from lifealign.judging.rubrics import load_rubric

    return load_rubric(path)


def _judge(path: Path) -> object:
    from lifealign.judging.llm.config import read_judge_config

    return read_judge_config(path, {})


DOORS = (
    Door("rows.json", inputs.json_file, _file("rows.json", _rows)),
    Door("rows.jsonl", inputs.jsonl_file, _file("rows.jsonl", _rows)),
    Door("rows.csv", inputs.csv_file, _file("rows.csv", _rows)),
    Door("rows.parquet", inputs.parquet_file, _file("rows.parquet", _rows)),
    Door("log.jsonl", inputs.jsonl_file, _file("log.jsonl", _log)),
    Door("prompts.jsonl", inputs.jsonl_file, _file("prompts.jsonl", _prompts)),
    Door("answers.jsonl", inputs.jsonl_file, _file("answers.jsonl", _answers)),
    Door("answers.parquet", inputs.parquet_file, _file("answers.parquet", _answers)),
    Door("run.yaml", inputs.yaml_file, _file("run.yaml", _run)),
    Door("study.yaml", inputs.yaml_file, _file("study.yaml", _study)),
    Door("rubric.yaml", inputs.yaml_file, _file("rubric.yaml", _rubric)),
    Door("judge.yaml", inputs.yaml_file, _file("judge.yaml", _judge)),
    Door("--set", inputs.setting, _set),
)
