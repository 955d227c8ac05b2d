"""Options of the built-in strategies, read from their source: a mistake in one is found without importing torch.

Importing a strategy imports torch, which takes seconds. Names, types and ranges of options are plain declarations, so
they are evaluated from the syntax tree alone. What cannot be evaluated so, such as a validator that is a function,
is left to the strategy's own `Config`, which has the last word on everything that passes here.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model, model_validator

PACKAGE = Path(__file__).parents[1]
LIGHT = ("lifealign.core.", "pydantic", "typing", "collections")
"""Modules that may be imported; names from others are looked up in their source."""


class AnyOptions(BaseModel):
    """Options of a strategy from outside, whose code is not read before it is run."""

    model_config = ConfigDict(extra="allow")


class NotDeclaredError(Exception):
    """An expression that needs more than declarations."""


def declared(reference: str) -> type[BaseModel]:
    """The options that a built-in strategy's source declares, as a model.

    Args:
        reference: ``lifealign.strategies.module:Class``.
    """
    module, _, name = reference.partition(":")
    found = _config_of(module, name)
    validators: Any = {"_given": model_validator(mode="before")(_given)}
    return create_model(name, __base__=found, __validators__=validators)


def _given(values: Any) -> Any:
    """Without options that are null: validators of a whole class may fill them in."""
    return {k: v for k, v in values.items() if v is not None} if isinstance(values, Mapping) else values


@functools.cache
def _tree(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def _config_of(module: str, strategy: str) -> type[BaseModel]:
    """The `Config` of a strategy: its own, or that of the first base class."""
    module, found = _class(module, strategy)
    for node in found.body:
        match node:
            case ast.ClassDef(name="Config"):
                return _model(module, node)
            case (
                ast.Assign(targets=[ast.Name(id="Config")], value=value)
                | ast.AnnAssign(target=ast.Name(id="Config"), value=ast.expr() as value)
            ):
                return _base(module, value)
    assert isinstance(found.bases[0], ast.Name)
    return _config_of(module, found.bases[0].id)


def _class(module: str, name: str) -> tuple[str, ast.ClassDef]:
    """The module and the syntax of a class that is defined in, or imported to, a module."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and any((a.asname or a.name) == name for a in node.names):
            assert node.module is not None
            return _class(node.module, name)
    raise NotDeclaredError(name)


def _base(module: str, node: ast.expr) -> type[BaseModel]:
    """A base class of options: a model of `core`, another class of options, or another strategy's `Config`."""
    if isinstance(node, ast.Attribute):
        assert isinstance(node.value, ast.Name)
        return _config_of(module, node.value.id)
    assert isinstance(node, ast.Name)
    try:
        found = _Names(module)[node.id]
        assert issubclass(found, BaseModel)
        return found  # type: ignore[no-any-return]
    except KeyError:
        return _model(*_class(module, node.id))


def _model(module: str, node: ast.ClassDef) -> type[BaseModel]:
    bases = tuple(_base(module, base) for base in node.bases)
    before = set(_validated_before(node))
    fields: dict[str, Any] = {}
    for line in node.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and "ClassVar" not in ast.dump(line):
            name = line.target.id
            try:
                if name in before:
                    raise NotDeclaredError(name)
                value = ... if line.value is None else _evaluate(module, line.value)
                fields[name] = (_evaluate(module, line.annotation), value)
            except NotDeclaredError:
                fields[name] = (Any, None)
    return create_model(node.name, __base__=bases, **fields)


def _validated_before(node: ast.ClassDef) -> Iterator[str]:
    """Fields whose values are changed before they are checked."""
    for function in node.body:
        for call in function.decorator_list if isinstance(function, ast.FunctionDef) else ():
            if isinstance(call, ast.Call) and any(ast.unparse(k.value) == "'before'" for k in call.keywords):
                yield from (str(a.value) for a in call.args if isinstance(a, ast.Constant))


def _evaluate(module: str, node: ast.expr) -> Any:
    try:
        return eval(compile(ast.Expression(node), module, "eval"), {"__builtins__": {}}, _Names(module))
    except (NameError, KeyError, AttributeError, TypeError) as error:
        raise NotDeclaredError(str(error)) from None


class _Names(Mapping[str, Any]):
    """The names of a module that are plain declarations: imports of light modules, and constants."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getitem__(self, name: str) -> Any:
        for node in _tree(self._module).body:
            match node:
                case ast.ImportFrom(module=str(source), names=names):
                    if found := [a.name for a in names if (a.asname or a.name) == name]:
                        if source.startswith(LIGHT):
                            return getattr(importlib.import_module(source), found[0])
                        return _Names(source)[found[0]] if source.startswith("lifealign.") else self._unknown(name)
                case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                    return _evaluate(self._module, value)
        if name in ("bool", "float", "int", "str", "tuple", "dict", "list", "frozenset"):
            return getattr(builtins, name)
        return self._unknown(name)

    def _unknown(self, name: str) -> Any:
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0
