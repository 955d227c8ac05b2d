"""Registries of strategies, losses, row formats, rules, scores and text metrics, built-in and external, by name.

External ones come in three ways: a call to `register` (or the decorator), an entry point of an installed distribution,
and a reference such as ``path/to/file.py:Name`` in place of a name. Nothing is imported before it is used. Built-in
ones are in the same table. Every mistake ends in a one-sentence message. Imports no torch.
"""

from __future__ import annotations

import functools
import importlib.metadata
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from lifealign.core.config_files import nearest
from lifealign.core.errors import ConfigError, UserError
from lifealign.core.origin import Origin, is_reference, load_reference, origin_of

T = TypeVar("T")

NAME = re.compile(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*")

_registries: dict[str, Registry[Any]] = {}
_handed: dict[str, dict[str, str]] = {}
"""Group -> name -> reference, registered by another process."""


@dataclass(frozen=True)
class _Entry:
    """A name's value, or how to load it.

    Attributes:
        value: None: not loaded yet.
        reference: the code to load, if known by reference.
        point: the entry point to load, if any.
    """

    value: Any = None
    reference: str | None = None
    point: importlib.metadata.EntryPoint | None = None


class Registry(Mapping[str, T], Generic[T]):
    """Mapping from names to values of one kind, each loaded on first use.

    Args:
        what: noun for messages, e.g. `strategy`.
        group: of entry points, e.g. `lifealign.strategies`.
        check: value -> its fault, worded to follow "... cannot be registered: "; None: no fault.
        code: value -> the class or function that defines it.
        adapt: loaded object -> value, e.g. a function -> a loss.
        error: raised for an unknown name.
    """

    def __init__(
        self,
        what: str,
        group: str,
        *,
        check: Callable[[Any], str | None],
        code: Callable[[Any], Any] = lambda value: value,
        adapt: Callable[[Any], Any] = lambda value: value,
        error: type[UserError] = ConfigError,
    ) -> None:
        self.what, self.group, self.error = what, group, error
        self._check, self._code, self._adapt = check, code, adapt
        self._entries: dict[str, _Entry] = {}
        self._discovered = False
        self._clashes: dict[str, str] = {}
        _registries[group] = self

    def built_in(self, table: Mapping[str, str | T]) -> None:
        """Add built-in values: name -> value, or a reference that is loaded on first use."""
        for name, value in table.items():
            self._entries[name] = _Entry(reference=value) if isinstance(value, str) else _Entry(value)

    def built_in_references(self) -> list[str]:
        """References of all built-in values that are loaded on first use."""
        references = (entry.reference for entry in self._entries.values())
        return [reference for reference in references if reference is not None and reference.startswith("lifealign.")]

    def register(self, name: str, value: T) -> T:
        """Add a value under a name, and return it.

        Raises:
            ConfigError: the name is taken or invalid, or the value is of the wrong kind.
        """
        here = f"{self.what} {name!r} cannot be registered"
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise ConfigError(f"{here}: use lower-case letters, digits, - and _, e.g. 'my_{self.group.split('.')[1]}'")
        if problem := self._check(value):
            raise ConfigError(f"{here}: {problem}")
        old = self._entries.get(name)
        if old is not None and not self._is_newer(value, old):
            raise ConfigError(f"{here}: the name is taken ({self.origin(name)}); choose another")
        self._entries[name] = _Entry(value)
        return value

    def _is_newer(self, value: T, old: _Entry) -> bool:
        """Whether a value is a new version of the registered one: its file, or a notebook cell, was run again."""
        code = self._code(value)
        if old.point is not None:  # a distribution that also registers its entry point by a call
            return _module_of(code) == old.point.module
        new = origin_of(code)
        if old.value is None:
            return old.reference == new.reference
        known = origin_of(self._code(old.value))
        same_name = getattr(code, "__qualname__", 0) == getattr(self._code(old.value), "__qualname__", 1)
        return old.value is value or (same_name and new.kind == known.kind != "built-in" and new.path == known.path)

    def __getitem__(self, name: str) -> T:
        """The value of a name or a reference.

        Raises:
            ConfigError: the value cannot be loaded, or is of the wrong kind.
            KeyError: no such name.
        """
        if is_reference(name):
            value = self._adapt(load_reference(name))
            if problem := self._check(value):
                raise ConfigError(f"{name}: {problem}")
            return value  # type: ignore[no-any-return]
        entry = self._entry(name)
        if entry is None:
            raise KeyError(name)
        if name in self._clashes:
            raise ConfigError(self._clashes[name])
        if entry.value is None:
            value = self._load(name, entry)
            if self._entries.get(name, entry).value is None:
                self._entries[name] = _Entry(value, entry.reference, entry.point)
        return self._entries[name].value  # type: ignore[no-any-return]

    def of_code(self, code: Any) -> T | None:
        """The value registered by call in this process that consists of a class or function; None: none does."""
        values = [entry.value for entry in self._entries.values() if entry.value is not None]
        return next((value for value in values if self._code(value) is code), None)

    def _load(self, name: str, entry: _Entry) -> Any:
        try:
            value = load_reference(entry.reference) if entry.point is None else entry.point.load()  # type: ignore[arg-type]
        except Exception as error:
            if entry.point is None:
                raise
            raise ConfigError(
                f"{self.what} {name!r} of {_distribution(entry.point)} cannot be loaded: {type(error).__name__}: {error}"
            ) from error
        value = self._adapt(value)
        if problem := self._check(value):
            source = _distribution(entry.point) if entry.point is not None else entry.reference
            raise ConfigError(f"{self.what} {name!r} of {source} cannot be used: {problem}")
        return value

    def _entry(self, name: str) -> _Entry | None:
        if name not in self._entries:
            if name in _handed.get(self.group, {}):
                return self._entries.setdefault(name, _Entry(reference=_handed[self.group][name]))
            self._discover()
        return self._entries.get(name)

    def find(self, name: str) -> T:
        """The value of a name or a reference.

        Raises:
            UserError: of the class `error`: no such name; suggests the closest and lists all.
            ConfigError: the value cannot be loaded, or is of the wrong kind.
        """
        if not is_reference(name) and self._entry(name) is None:
            raise self.error(self.unknown(name))
        return self[name]

    def known(self, name: str) -> str:
        """A name or reference in a configuration, for pydantic's `AfterValidator`.

        Raises:
            ValueError: see `find`.
        """
        try:
            self.find(name)
        except UserError as error:
            raise ValueError(str(error)) from None
        return name

    def unknown(self, name: str) -> str:
        """The message for a name that is not registered."""
        names = sorted(self)
        outside = [f"{n} (of {self.origin(n)})" for n in names if self.is_outside(n)]
        shown = ", ".join([*(n for n in names if not self.is_outside(n)), *outside])
        return f"unknown {self.what} {name!r}{nearest(name, names)}; allowed: {shown}"

    def __iter__(self) -> Iterator[str]:
        """Every registered name, including those of installed distributions; built-in ones first."""
        self._discover()
        for name, reference in _handed.get(self.group, {}).items():
            self._entries.setdefault(name, _Entry(reference=reference))
        return iter(list(self._entries))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        """Whether a name is registered; every reference counts, as it is not loaded here."""
        return isinstance(name, str) and (is_reference(name) or self._entry(name) is not None)

    def is_outside(self, name: str) -> bool:
        """Whether a registered name is external; loads nothing."""
        if is_reference(name):
            return True
        entry = self._entry(name)
        if entry is None:
            return False
        if entry.point is not None:
            return True
        if entry.value is None:
            return not str(entry.reference).startswith("lifealign.")
        return not _module_of(self._code(entry.value)).startswith("lifealign.")

    def outside(self) -> list[str]:
        """Registered names that are external."""
        return [name for name in self if self.is_outside(name)]

    def origin(self, name: str) -> Origin:
        """The origin of a name's value; without its source if it is an entry point not loaded yet."""
        entry = None if is_reference(name) else self._entry(name)
        if entry is not None and entry.value is None:
            if entry.point is not None:
                dist = entry.point.dist
                known = (None, None) if dist is None else (dist.name, dist.version)
                return Origin("distribution", entry.point.value, None, *known)
            if not self.is_outside(name):
                return Origin("built-in", entry.reference)
        found = origin_of(self._code(self[name]))
        if entry is not None and entry.point is not None and entry.point.dist is not None:
            of = entry.point.dist
            return Origin("distribution", entry.point.value, found.path, of.name, of.version, found.sha256, found.files)
        if found.reference is None and is_reference(name):
            return replace(found, reference=name)
        return found

    def registered_here(self) -> dict[str, str]:
        """Name -> reference of everything this process registered, for the processes it starts.

        Raises:
            ConfigError: a value is defined inside a function or a notebook, where other processes cannot find it.
        """
        found = {}
        for name, entry in self._entries.items():
            if entry.point is not None or not self.is_outside(name):
                continue
            reference = entry.reference if entry.value is None else origin_of(self._code(entry.value)).reference
            if reference is None:
                raise ConfigError(
                    f"{self.what} {name!r} is defined inside a function or a notebook, where a study's processes cannot "
                    "find it; move it to the top level of a file"
                )
            found[name] = reference
        return found

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for point in _entry_points(self.group):
            old = self._entries.get(point.name)
            if old is None:
                self._entries[point.name] = _Entry(point=point)
            elif old.point is None:
                continue  # built in, or registered by a call: it wins; `problems` reports a clash with a built-in name
            elif old.point.value != point.value:
                both = " and ".join(_distribution(p) for p in (old.point, point))
                self._clashes[point.name] = f"{self.what} {point.name!r} comes from {both}; uninstall one of them"

    def problems(self) -> list[str]:
        """Faults of entry points: names that are taken or invalid."""
        self._discover()
        found = list(self._clashes.values())
        for point in _entry_points(self.group):
            entry = self._entries[point.name]
            if entry.point is None and not self.is_outside(point.name):
                found.append(f"{self.what} {point.name!r} of {_distribution(point)} is ignored: the name is built in")
            elif NAME.fullmatch(point.name) is None:
                found.append(
                    f"{self.what} {point.name!r} of {_distribution(point)} needs another name: use a-z, 0-9, - and _"
                )
        return found


def _module_of(code: Any) -> str:
    return str(getattr(code, "__module__", ""))


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else point.value


@functools.cache
def _entry_points(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    """Entry points sorted by name and distribution, so that their order does not depend on the file system."""
    found = importlib.metadata.entry_points(group=group)
    return tuple(sorted(found, key=lambda point: (point.name, _distribution(point))))


def hand_over() -> dict[str, dict[str, str]]:
    """Group -> name -> reference of everything this process registered, for `take_over` in another one.

    Raises:
        ConfigError: see `Registry.registered_here`.
    """
    return {group: found for group, registry in _registries.items() if (found := registry.registered_here())}


def take_over(handed: Mapping[str, Mapping[str, str]]) -> None:
    """Take over the names that another process registered; each is loaded on first use."""
    for group, found in handed.items():
        _handed.setdefault(group, {}).update(found)
