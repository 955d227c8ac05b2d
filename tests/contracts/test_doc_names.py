"""Every file, module, option, setting and name that a page writes in backticks exists."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lifealign.strategies import STRATEGIES
from site_commands import commands
from site_settings import MODELS, settings
from support.paths import ROOT

PAGES = [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PACKAGE = ROOT / "src" / "lifealign"
TREES = ("src", "tests", "docs", "examples", "benchmarks", "results")
"""Folders of the repository that pages point into."""

ALLOWED = {
    "path/to/file.py": "stands for the reader's file",
    "my_losses.py": "stands for the reader's file",
    "my_rules.py": "stands for the reader's file",
    "KTOTrainer": "of TRL",
    "SFTTrainer": "of TRL",
    "loss_type": "of TRL",
    "f_divergence_type": "of TRL",
    "js_divergence": "of TRL",
    "alpha_divergence": "of TRL",
    "f_alpha_divergence_coef": "of TRL",
    "refunds": "a task of the tutorial",
    "path_or_None": "stands for an argument",
    "logps_B": "an example of a shape suffix",
    "A_RI": "an example of a shape suffix",
    "--no-deps": "an option of pip",
    "SameSite": "an attribute of cookies",
    "Lax": "an attribute of cookies",
    "flock": "a call of the operating system",
    "instructor": "a package that is not used",
    "ruamel": "a package that is not used",
    "atomicwrites": "a package that is not used",
    "quadprog": "a package that is not used",
}
"""Names that are not this project's -> what they are."""
ELSEWHERE = ("evaluations", "tasks", "work", "runs", "..")
"""Folders of a memory or of a reader that paths begin with."""

ENTRY_POINTS = tuple(
    f"lifealign.{group}"
    for group in (
        "strategies",
        "losses",
        "sft_losses",
        "selectors",
        "formats",
        "checkers",
        "scores",
        "text_metrics",
    )
)
"""Groups of entry points: dotted names that cannot be imported."""

FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
MODULE = re.compile(r"[\w./-]*\w\.py\b")
PATH = re.compile(r"[\w.-]+/[\w./-]*")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
WORD = re.compile(r"[A-Za-z_]\w{2,}")


def pieces(text: str) -> Iterator[tuple[int, str]]:
    """(line, text) of each piece of code inside a sentence."""
    text = FENCE.sub(lambda block: "\n" * block[0].count("\n"), text)
    for match in CODE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match[1]


@functools.cache
def files() -> tuple[str, ...]:
    """Every source file of the repository, relative to its root."""
    return tuple(
        str(path.relative_to(ROOT))
        for tree in TREES
        for path in (ROOT / tree).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path != Path(__file__)
    )


@functools.cache
def words() -> frozenset[str]:
    """Names and short texts of the Python files, all words of the other ones; prose is left out."""
    found: set[str] = {part for name in files() for part in re.findall(r"\w+", name)}
    for name in files():
        text = (ROOT / name).read_text(encoding="utf-8") if name.endswith((".py", ".yaml", ".j2", ".jsonl")) else ""
        if not name.endswith(".py"):
            found.update(re.findall(r"\w+", text))
            continue
        tree = ast.parse(text)
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if id(node) not in prose:
                found.update(_names(node))
    for name in ("pyproject.toml", "Makefile", "mkdocs.yml", "constraints.txt", ".ci/run"):
        found.update(re.findall(r"\w+", (ROOT / name).read_text(encoding="utf-8")))
    return frozenset(found)


def _names(node: ast.AST) -> Iterator[str]:
    for field in ("id", "attr", "name", "arg", "module"):
        if isinstance(value := getattr(node, field, None), str):
            yield from re.findall(r"\w+", value)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
        yield from re.findall(r"\w+", node.value)


@functools.cache
def keys() -> frozenset[str]:
    """Settings of all configurations, dotted, with the sections that they are in."""
    found = {setting.key.replace("[]", "") for model in MODELS.values() for setting in settings(model)}
    found |= {f"strategy.{field}" for name in STRATEGIES for field in STRATEGIES[name].Config.model_fields}
    found.add("strategy.name")
    return frozenset(found | {key.rpartition(".")[0] for key in found})


@functools.cache
def options() -> frozenset[str]:
    """Options of all commands."""
    found = {option for command in commands().values() for parameter in command.params for option in parameter.opts}
    return frozenset(found | {"--help", "--version"})


def resolves(dotted: str) -> bool:
    """Whether a dotted name is a module or an attribute of one."""
    parts = dotted.split(".")
    for at in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:at]))
        except ModuleNotFoundError:
            continue
        try:
            functools.reduce(getattr, parts[at:], found)
        except AttributeError:
            return False
        return True
    return False


def missing_paths(code: str) -> Iterator[str]:
    for name in MODULE.findall(code):
        count = sum(file == name or file.endswith(f"/{name}") for file in files())
        if count != 1 and name not in ALLOWED:
            yield f"{name}: {count} files of that name" + ("; write its folder too" if count else "")
    folders = [path.name for path in PACKAGE.iterdir() if path.is_dir()]
    for name in PATH.findall(code):
        head = name.partition("/")[0]
        folder = name.endswith("/") and head in folders
        config = name.endswith((".yaml", ".json")) and head not in ELSEWHERE
        if (head in TREES or folder or config) and not ((ROOT / name).exists() or (PACKAGE / name).exists()):
            yield f"{name}: no such file"


def missing_names(code: str) -> Iterator[str]:
    """Of a piece that is one name, dotted or called; commands and messages have spaces."""
    dotted = code.partition("(")[0]
    head = dotted.partition(".")[0]
    if re.fullmatch(r"\w+(\.\w+)+", dotted) and not MODULE.fullmatch(dotted) and dotted not in (*keys(), *ENTRY_POINTS):
        if head == "lifealign" or dotted.count(".") > 1:
            if not resolves(dotted):
                yield f"{dotted}: cannot be imported"
        elif head in sections() and f"{head}." in dotted:
            yield f"{dotted}: no setting"
    for word in WORD.findall(MODULE.sub("", dotted)):
        if word not in words() and word not in ALLOWED:
            yield f"{word}: no name in the sources"


def missing(code: str) -> list[str]:
    """Names in a piece of code that do not exist."""
    wrong = list(missing_paths(code))
    wrong += [f"{name}: no option" for name in OPTION.findall(code) if name not in options() and name not in ALLOWED]
    if not re.search(r"[\s:-]", code):
        wrong += missing_names(code)
    return wrong


@functools.cache
def sections() -> frozenset[str]:
    return frozenset(key.partition(".")[0] for key in keys() if "." in key)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_on_a_page_exist(page: Path) -> None:
    found = [
        f"{page.name}:{line}: `{code}`: {wrong}"
        for line, code in pieces(page.read_text(encoding="utf-8"))
        for wrong in missing(code)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("code", "right"),
    [
        ("model/logps.py", True),
        ("logps.py", True),
        ("results.py", False),  # two folders have one
        ("products.py", False),
        ("suites/planted.json", False),
        ("data/suites/planted.json", True),
        ("training/", True),
        ("tests/compat/", False),
        ("train.epochs", True),
        ("train.epoch", False),
        ("lifealign.Memory.evaluate", True),
        ("lifealign.suites.planted", False),
        ("suites.rules.refuses", False),
        ("train_stage", True),
        ("train_stages_of_old", False),
        ("lifealign evaluate MEMORY --gate 'bwt>=-1'", True),
        ("lifealign evaluate MEMORY --gates 'bwt>=-1'", False),
    ],
)
def test_names_that_do_not_exist_are_seen(code: str, right: bool) -> None:
    assert (not missing(code)) == right, missing(code)


def test_the_allow_list_holds_nothing_that_is_not_needed() -> None:
    pages = "\n".join(code for page in PAGES for _, code in pieces(page.read_text(encoding="utf-8")))
    assert [name for name in ALLOWED if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", pages)] == []
    assert [name for name in ALLOWED if name in words() or name in options() or name in files()] == []
