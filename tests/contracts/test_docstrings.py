"""Docstrings and comments name only what there is: a module that moves takes the pointers to it along.

Names are read from the syntax trees, so nothing of lifealign is imported. A dotted name in backticks must lead to
- a module, class, function or constant of the package, by the last parts of its path (`losses.Losses`), or a member;
- a parameter of the function, or a field of the class, around the text, and then a member of its annotation's class;
- an option: a field of a configuration model, by its dotted key (`train.pairs_per_step`);
- a file: one of the package, or one whose name its code holds;
- an object of another library (`torch.nn.Linear`).
A name without a dot must be one that the code uses, or a word of its texts.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import io
import re
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.paths import ROOT

PACKAGE = ROOT / "src" / "lifealign"
FILES = sorted(PACKAGE.rglob("*.py"))
PAGES = sorted(p for p in PACKAGE.rglob("*") if p.suffix in {".css", ".html", ".j2", ".js"})
QUOTED = re.compile(r"(`+)([^`]+)\1")
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
"""What is looked up of the text in backticks; a call's arguments and an option's value after it are not."""
PAGE_COMMENT = re.compile(r"\{#(.*?)#\}|<!--(.*?)-->|/\*(.*?)\*/|(?<![:\w])//([^\n]*)", re.DOTALL)
FILE_NAME = re.compile(r"[\w-]+\.(css|csv|html|html\.j2|j2|js|json|jsonl|md|py|safetensors|sqlite|svg|yaml)")
SOURCE_FILE = re.compile(r"(?<![\w./<>-])[\w-]+\.(?:css|html\.j2|js|py)\b(?![:(])")
"""A file of the package, named without backticks."""

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A module of the package, by the parts of its name below `lifealign`."""

    path: tuple[str, ...]
    tree: ast.Module


@functools.cache
def modules() -> tuple[Module, ...]:
    found = []
    for file in FILES:
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        path = parts[:-1] if parts[-1] == "__init__" else parts
        found.append(Module(path, ast.parse(file.read_text(encoding="utf-8"))))
    return tuple(found)


@functools.cache
def classes() -> dict[str, list[ast.ClassDef]]:
    """The classes of the package by name."""
    found: dict[str, list[ast.ClassDef]] = {}
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(node)
    return found


def targets(node: ast.AST) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []


def defined(body: Sequence[ast.stmt]) -> dict[str, ast.AST]:
    """What the statements of a module or a class define, by name."""
    found: dict[str, ast.AST] = {}
    for statement in body:
        if isinstance(statement, Definition):
            found[statement.name] = statement
        elif isinstance(statement, ast.If | ast.Try):
            found |= defined([s for s in ast.iter_child_nodes(statement) if isinstance(s, ast.stmt)])
        for target in targets(statement):
            found |= {n.id: statement for n in ast.walk(target) if isinstance(n, ast.Name)}
    return found


@functools.cache
def own_members(node: ast.ClassDef) -> dict[str, ast.AST]:
    """What a class's body defines, and what its methods assign to `self`, by name."""
    found: dict[str, ast.AST] = {}
    for part in ast.walk(node):
        for target in targets(part):
            if isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
                found[target.attr] = part
    return found | defined(node.body)


def members(node: ast.ClassDef, below: tuple[ast.ClassDef, ...] = ()) -> dict[str, ast.AST]:
    """The attributes, fields and methods of a class, its bases' included, by name; `below` are its subclasses."""
    found: dict[str, ast.AST] = {}
    for base in node.bases:
        for parent in named_classes(base):
            if parent is not node and parent not in below:  # several classes may have one name: Config(Strategy.Config)
                found |= members(parent, (*below, node))
    return found | own_members(node)


def named_classes(node: ast.AST | None) -> list[ast.ClassDef]:
    """The package's classes that an annotation or a base names."""
    if node is None:
        return []
    if isinstance(node, ast.Name):
        return classes().get(node.id, [])
    if isinstance(node, ast.Attribute):
        return classes().get(node.attr, [])
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [c for word in re.findall(r"\w+", node.value) for c in classes().get(word, [])]
    return [c for child in ast.iter_child_nodes(node) for c in named_classes(child)]


def leads_on(node: ast.AST, rest: Sequence[str]) -> bool:
    """Whether the members named by `rest` can be reached from a definition."""
    if not rest:
        return True
    if isinstance(node, ast.ClassDef):
        return rest[0] in members(node) and leads_on(members(node)[rest[0]], rest[1:])
    annotation = node.returns if isinstance(node, ast.FunctionDef) else getattr(node, "annotation", None)
    return any(leads_on(c, rest) for c in named_classes(annotation))


def in_package(parts: Sequence[str]) -> bool:
    for split in range(1, len(parts) + 1):
        head, rest = tuple(parts[:split]), parts[split:]
        for module in modules():
            if module.path[-split:] != head:
                continue
            names = defined(module.tree.body)
            if not rest or (rest[0] in names and leads_on(names[rest[0]], rest[1:])):
                return True
    return any(leads_on(c, parts[1:]) for c in classes().get(parts[0], []))


def in_scope(parts: Sequence[str], scope: Sequence[Definition]) -> bool:
    """Whether the first part is a parameter of a function, or a field of a class, around the text."""
    for node in scope:
        if isinstance(node, ast.ClassDef):
            if parts[0] == "self" and leads_on(node, parts[1:]):
                return True
            if parts[0] in members(node) and leads_on(members(node)[parts[0]], parts[1:]):
                return True
        else:
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if any(leads_on(a, parts[1:]) for a in arguments if a.arg == parts[0] and a.annotation is not None):
                return True
    return False


@functools.cache
def option_models() -> tuple[ast.ClassDef, ...]:
    return tuple(c for found in classes().values() for c in found if "model_config" in members(c))


def is_option(parts: Sequence[str]) -> bool:
    """Whether a dotted key is one of a configuration; below `strategy`, of any strategy's."""
    if any(leads_on(model, parts) for model in option_models()):
        return True
    return parts[0] == "strategy" and any(leads_on(m, parts[1:]) for m in option_models() if m.name == "Config")


@functools.cache
def words() -> frozenset[str]:
    """Every name that the code uses, and every word of its texts; docstrings and comments left out."""
    found: set[str] = set()
    docs: set[int] = set()
    for module in modules():
        found.update(module.path)
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Expr):
                docs.add(id(node.value))  # an expression comes before its parts
            elif isinstance(node, ast.Constant):
                if isinstance(node.value, str) and id(node) not in docs:
                    found.update(re.findall(r"[\w.-]+", node.value))
            elif isinstance(node, ast.Name):
                found.add(node.id)
            elif isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.arg | ast.keyword):
                found.add(node.arg or "")
            elif isinstance(node, Definition):
                found.add(node.name)
            elif isinstance(node, ast.alias):
                found.update(node.name.split("."))
    return frozenset(found)


def is_file(name: str) -> bool:
    if FILE_NAME.fullmatch(name) is None:
        return False
    return any(path.name == name for path in [*FILES, *PAGES]) or name in words()


def in_library(name: str) -> bool:
    """Whether another library has the object; looked for in its files, so that none of the large ones is imported."""
    root, *rest = name.split(".")
    spec = importlib.util.find_spec(root)
    if root == "lifealign" or spec is None or spec.origin is None:
        return False
    place = Path(spec.origin)
    if place.name == "__init__.py":
        place = place.parent
    while rest and (place / rest[0]).is_dir():
        place /= rest.pop(0)
    if not rest:
        return True
    if place.is_dir() and (place / f"{rest[0]}.py").is_file():
        place /= f"{rest.pop(0)}.py"
    files = place.rglob("*.py") if place.is_dir() else [place]
    made = re.compile(rf"^\s*((class|def) {rest[0]}\b|{rest[0]}\b.*=)", re.MULTILINE) if rest else re.compile("")
    return any(made.search(file.read_text(encoding="utf-8")) for file in files)


@functools.cache
def is_known(name: str) -> bool:
    """Whether a dotted name leads somewhere wherever it is written."""
    parts = name.split(".")
    return in_package(parts) or is_option(parts) or is_file(name) or in_library(name)


def quoted(text: str) -> Iterator[str]:
    """The names in backticks of a text."""
    for _, code in QUOTED.findall(text):
        found = NAME.match(code)
        if found is not None and re.match(r"$|[(\[=]", code[found.end() :]):
            yield found[0]


def texts(source: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, text) of every docstring, also those of fields and constants, and of every block of comments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value
    block: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            if block and token.start[0] != last + 1:
                yield last, "\n".join(block)
                block = []
            block.append(token.string.lstrip("# "))
            last = token.start[0]
    if block:
        yield last, "\n".join(block)


def stale(source: str) -> list[str]:
    """The names in docstrings and comments of a module's source that lead nowhere, with their lines."""
    tree = ast.parse(source)
    nodes = [n for n in ast.walk(tree) if isinstance(n, Definition)]
    found = []
    for line, text in texts(source, tree):
        scope = [n for n in nodes if n.lineno <= line <= (n.end_lineno or n.lineno)]
        for name in quoted(text):
            if "." not in name:
                known = name in words()
            else:
                known = is_known(name) or in_scope(name.split("."), scope)
            if not known:
                found.append(f"{line}: {name}")
        found += [f"{line}: {name}" for name in SOURCE_FILE.findall(QUOTED.sub("", text)) if not is_file(name)]
    return found


def stale_in_page(page: str) -> list[str]:
    """The names in the comments of a page, a script or a style sheet that lead nowhere; its own data may be named."""
    comments = [next(filter(None, groups)) for groups in PAGE_COMMENT.findall(page)]
    code = PAGE_COMMENT.sub("", page)
    found = []
    for text in comments:
        found += [n for n in quoted(text) if not (is_known(n) if "." in n else n in words()) and n not in code]
        found += [n for n in SOURCE_FILE.findall(QUOTED.sub("", text)) if not is_file(n)]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_name_in_a_docstring_leads_somewhere(path: Path) -> None:
    assert stale(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_name_in_a_comment_of_a_page_leads_somewhere(path: Path) -> None:
    assert stale_in_page(path.read_text(encoding="utf-8")) == []


KNOWN = [
    "losses.Losses",
    "training.strategy.Strategy.prefix",
    "Memory.summary",
    "train.pairs_per_step",
    "strategy.penalty_weight",
    "planted.json",
    "torch.nn.Linear",
    "json.dumps",
]
"""One of each kind of name."""
MOVED = [
    "suites.paper",
    "strategies.base.Step",
    "training.strategy.Stride",
    "Memory.summary.accuracy",
    "train.pairs_a_step",
    "strategy.no_such_option",
    "compare.js",
    "torch.nn.Linnear",
    "json.dump_all",
    "judge_prompt",
]
"""Names that lead nowhere, some of them once did."""


def test_names_that_are_there_are_found() -> None:
    assert stale('"""' + " ".join(f"`{name}`" for name in KNOWN) + '"""') == []


def test_names_that_are_not_there_are_reported_with_their_line() -> None:
    lines = "\n".join(f"    `{name}`" for name in MOVED)
    assert stale(f'"""Old names."""\n\n\ndef f() -> None:\n    """{lines}"""\n') == [f"5: {name}" for name in MOVED]
    assert stale("x = 1  # see `suites.paper`\n") == ["1: suites.paper"]
    assert stale('"""The layout is in study_report.html.j2."""') == ["1: study_report.html.j2"]
    assert stale_in_page("{# Made by `compare.page_document`; compare.js shows it. #}") == [
        "compare.page_document",
        "compare.js",
    ]


def test_parameters_and_fields_lead_to_the_members_of_their_class() -> None:
    source = 'def f(step: "Step") -> None:\n    """Reads `step.model`, not `step.modle` and not `stage.model`."""\n'
    assert stale(source) == ["2: step.modle", "2: stage.model"]
