"""Load code by module or by file, and find its origin: distribution, version and checksum of the source.

External code is named by a reference: ``package.module:Name`` or ``path/to/file.py:Name``. Loading a file runs it, so
this is announced, once for each version of the file. Imports no torch.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import site
import sys
import sysconfig
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from lifealign.core.errors import ConfigError
from lifealign.core.files import file_sha256, read_bytes

CODE_PATH = "LIFEALIGN_CODE_PATH"
"""Environment variable: folders to search, by file name, for a code file that has moved."""
BUILT_IN = "built-in"

_loaded: dict[tuple[str, str], ModuleType] = {}
_placed: dict[str, Path] = {}


@dataclass(frozen=True)
class Origin:
    """The origin of a class or function.

    Attributes:
        kind: `built-in`, `distribution` (installed), `file` or `module` (importable, but not installed).
        reference: how another process finds it; None: it cannot, because it is defined inside a function or a notebook.
        path: absolute path of its file, if any.
        distribution: name of the installed distribution, if any.
        version: of the distribution, else `__version__` of its module; None: unknown.
        sha256: of its file, or of all `files` if there are several; None: the source is not available.
        files: file name -> sha256 of its file and of those beside it that it imports.
    """

    kind: str
    reference: str | None = None
    path: str | None = None
    distribution: str | None = None
    version: str | None = None
    sha256: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Short text: `built-in`, ``name 1.2``, or the file."""
        if self.kind == BUILT_IN:
            return BUILT_IN
        if self.distribution:
            return f"{self.distribution} {self.version}"
        return self.path or self.reference or "this process"

    def to_json(self) -> dict[str, Any]:
        """Plain values, as stored with a memory."""
        return {**vars(self), "files": dict(self.files)}


def is_reference(name: str) -> bool:
    """Whether a name is a reference rather than a registered name."""
    return ":" in name


def load_reference(reference: str) -> Any:
    """The object that ``module:Name`` or ``path/to/file.py:Name`` names.

    Raises:
        ConfigError: no such file, module or name; or the code fails (names the line).
    """
    where, _, attribute = reference.rpartition(":")
    if not where or not attribute:
        raise ConfigError(f"{reference!r}: expected path/to/file.py:Name or package.module:Name")
    if is_file(where):
        path = find_file(where)
        if path is None:
            raise ConfigError(
                f"{where}: no such file (working directory: {Path.cwd()}); give its path, or set {CODE_PATH}"
            )
        module = load_file(path)
    else:
        module = _import(where)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module.__name__]
            raise ConfigError(f"{where}: does not define {attribute!r}; its classes: {', '.join(known) or 'none'}")
        found = getattr(found, part)
    return found


def is_file(where: str) -> bool:
    """Whether the first part of a reference is a file rather than a module."""
    return where.endswith(".py") or "/" in where or os.sep in where


def find_file(where: str) -> Path | None:
    """The file of a reference: where `place` put it, as written, or by its name in a folder of `CODE_PATH`."""
    path = Path(where).expanduser()
    folders = [Path(f).expanduser() for f in os.environ.get(CODE_PATH, "").split(os.pathsep) if f]
    placed = [_placed[where]] if where in _placed else []
    for candidate in (*placed, path, *(folder / path.name for folder in folders)):
        if candidate.is_file():
            return candidate.resolve()
    return None


def place(where: str, path: Path) -> None:
    """Use this file for a reference from now on, in this process."""
    _placed[where] = path.resolve()


def load_file(path: Path) -> ModuleType:
    """Run a file as a module and announce it; an unchanged file is run only once.

    Raises:
        ConfigError: the code fails.
    """
    path = path.resolve()
    source = read_bytes(path, ConfigError)
    key = str(path), hashlib.sha256(source).hexdigest()
    if key in _loaded:
        return _loaded[key]
    name = f"outside_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python file")
    print(f"lifealign: running the code of {path}", file=sys.stderr, flush=True)
    if str(path.parent) not in sys.path:  # files beside it can be imported, after everything else
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        # Compile the bytes just read: cached byte code of an earlier version may have the same time and size.
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise _failed(str(path), error) from error
    _loaded[key] = module
    return module


def _import(name: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path and "" not in sys.path:  # as with `python -m`; after everything else
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"module {name!r} is not installed, and not in {Path.cwd()}; install it, or give path/to/file.py:Name"
            ) from None
        raise _failed(f"module {name!r}", error) from error
    except Exception as error:
        raise _failed(f"module {name!r}", error) from error


def _failed(what: str, error: Exception) -> ConfigError:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == what]
    if isinstance(error, SyntaxError) and error.filename == what:
        lines.append(error.lineno)
    line = f":{lines[-1]}" if lines else ""
    return ConfigError(f"{what}{line}: cannot be loaded: {type(error).__name__}: {error}")


def origin_of(value: Any) -> Origin:
    """Find the origin of a class or function."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    name = getattr(module, "__name__", "")
    if name.split(".")[0] == "lifealign":
        return Origin(BUILT_IN, f"{name}:{value.__qualname__}")
    path = _file_of(module)
    files = _source_files(module, value) if module is not None and path is not None else {}
    distribution = _distribution_of(name) if path is not None and _in_site(path) else None
    version = importlib.metadata.version(distribution) if distribution else getattr(module, "__version__", None)
    package = "." in name or hasattr(module, "__path__")
    kind = "distribution" if distribution else ("module" if package or path is None else "file")
    qualname = str(getattr(value, "__qualname__", ""))
    reference = None
    if qualname and "<locals>" not in qualname:
        if kind == "file":
            reference = f"{path}:{qualname}"
        elif name and name != "__main__":
            reference = f"{name}:{qualname}"
    return Origin(
        kind,
        reference,
        None if path is None else str(path),
        distribution,
        None if version is None else str(version),
        _together(files),
        files,
    )


def described(record: Mapping[str, Any]) -> str:
    """An origin as it was kept (`Origin.to_json`), in words."""
    if record["distribution"]:
        return f"{record['distribution']} {record['version']}"
    if record["path"] is None and record["reference"] is None:
        return "code that is in no file"
    return f"{record['path'] or record['reference']} (sha256 {str(record['sha256'])[:12]}...)"


def remedy(record: Mapping[str, Any]) -> str:
    """How to get back code whose origin was kept."""
    if record["distribution"]:
        return f"install it: pip install {record['distribution']}=={record['version']}"
    if record["path"] is None and record["reference"] is None:
        return "register it again under its name"
    return f"put the file back, or set {CODE_PATH} to the folder that it is in now"


def _together(files: Mapping[str, str]) -> str | None:
    if len(files) < 2:
        return next(iter(files.values()), None)
    return hashlib.sha256("".join(f"{sha}  {name}\n" for name, sha in sorted(files.items())).encode()).hexdigest()


def _file_of(module: ModuleType | None) -> Path | None:
    name = getattr(module, "__file__", None)
    return Path(name).resolve() if name and Path(name).suffix == ".py" and Path(name).is_file() else None


def _source_files(module: ModuleType, value: Any) -> dict[str, str]:
    """File name relative to the package or folder -> sha256, for its file and the files there that it imports."""
    found: dict[str, str] = {}
    bases = [sys.modules.get(c.__module__) for c in value.__mro__] if inspect.isclass(value) else []
    outside = [
        m for m in bases if m is not None and m.__name__.split(".")[0] not in ("lifealign", "builtins", "abc", "typing")
    ]
    for start in dict.fromkeys([module, *outside]):
        for path, root in _reachable(start):
            found[str(path.relative_to(root))] = file_sha256(path)
    return found


def _reachable(start: ModuleType) -> Iterator[tuple[Path, Path]]:
    """Yield (file, root) of a module and of all it imports, directly or not, from its package or folder."""
    first = _file_of(start)
    if first is None:
        return
    top = start.__name__.split(".")[0]
    depth = start.__name__.count(".") + (first.name == "__init__.py")
    root = first.parents[depth]
    alone = depth == 0 and _in_site(first)  # a single installed module: its neighbours are other distributions
    seen, waiting = {first}, deque([start])
    while waiting:
        module = waiting.popleft()
        path = _file_of(module)
        assert path is not None
        yield path, root
        for name in () if alone else _imported(path, module):
            other = sys.modules.get(name)
            file = _file_of(other)
            near = name.split(".")[0] == top if depth else (file is not None and file.parent == root)
            if other is not None and file is not None and near and file not in seen and file.is_relative_to(root):
                seen.add(file)
                waiting.append(other)


def _imported(path: Path, module: ModuleType) -> list[str]:
    """Full names of the modules that a file may import."""
    names: list[str] = []
    for node in ast.walk(ast.parse(read_bytes(path, ConfigError))):
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.__name__ if hasattr(module, "__path__") else module.__name__.rpartition(".")[0]
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base, *(f"{base}.{a.name}" for a in node.names)]
    return names


@functools.cache
def _site_folders() -> tuple[Path, ...]:
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), sysconfig.get_path("stdlib")]
    return tuple(Path(p).resolve() for p in (*paths, *site.getsitepackages(), site.getusersitepackages()))


def _in_site(path: Path) -> bool:
    return any(path.is_relative_to(folder) for folder in _site_folders())


@functools.cache
def _distribution_of(module: str) -> str | None:
    return next(iter(importlib.metadata.packages_distributions().get(module.split(".")[0], [])), None)
