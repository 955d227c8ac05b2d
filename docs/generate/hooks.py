"""What mkdocs calls while it builds: parts of pages, and whole pages, that are made from the code.

A page asks for a part by a comment on a line of its own: `<!-- generated: settings run train -->`. Nothing that is
generated is committed, so it cannot be out of date, and a change of an option is one edit.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from lifealign.judging.llm.reply import REASONS
from lifealign.strategies import STRATEGIES
from site_commands import command_page
from site_drift import measure_table
from site_python import api_page
from site_scores import gate_summary_table, score_table, summary_table
from site_settings import presets_table, settings_table
from site_strategies import shared_table, strategy_page
from site_text import escape, table

ROOT = Path(__file__).resolve().parents[2]


def drawing(name: str) -> str:
    """An SVG in the page itself, so that it takes the colours of light and dark."""
    svg = (ROOT / "docs" / "images" / f"{name}.svg").read_text(encoding="utf-8")
    return f'<div class="drawing">\n{svg}</div>'


def modules() -> str:
    """Every module of the package with the first line of its docstring, folder by folder."""
    package = ROOT / "src" / "lifealign"
    parts = []
    for folder in sorted(p for p in package.iterdir() if (p / "__init__.py").exists()):
        rows = [(str(path.relative_to(folder)), _first_line(path)) for path in sorted(folder.rglob("*.py"))]
        cells = ((f"`{name}`", escape(text)) for name, text in rows if name != "__init__.py")
        parts.append(f'??? note "{folder.name}/"\n\n' + textwrap.indent(table(("module", "what it is"), cells), "    "))
    return "\n\n".join(parts)


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


PARTS: Mapping[str, Callable[..., str]] = {
    "drawing": drawing,
    "settings": settings_table,
    "presets": presets_table,
    "strategy-options": shared_table,
    "commands": command_page,
    "modules": modules,
    "python": api_page,
    "measures": measure_table,
    "scores": score_table,
    "summaries": summary_table,
    "gate-summaries": gate_summary_table,
    "reasons": lambda: table(("reason", "meaning"), ((f"`{name}`", escape(text)) for name, text in REASONS.items())),
}
ROOT_PAGES = {"project/contributing.md": "CONTRIBUTING.md", "project/changelog.md": "CHANGELOG.md"}
"""Page of the site -> the file at the top of the repository that it shows."""

_PART = re.compile(r"^<!-- generated: ([a-z-]+)((?: [\w.-]+)*) -->$", re.MULTILINE)


_FOREIGN = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']((?:https?:)?//[^"']+)|<link\b(?![^>]*canonical)[^>]*\bhref=["']((?:https?:)?//[^"']+)"""
)


def on_config(config: Any) -> Any:
    """Give every strategy an entry below the page that lists them."""
    names = [{name: f"reference/strategies/{name}.md"} for name in sorted(STRATEGIES)]
    config.nav = _with_pages(config.nav, "reference/strategies/index.md", names)
    return config


def _with_pages(nav: Any, page: str, more: list[Any]) -> Any:
    """The navigation with more entries after `page`, at any depth."""
    if isinstance(nav, dict):
        return {title: _with_pages(inner, page, more) for title, inner in nav.items()}
    if not isinstance(nav, list):
        return nav
    return [entry for item in nav for entry in ([item, *more] if item == page else [_with_pages(item, page, more)])]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are not in this folder."""
    for name in STRATEGIES:
        path = f"reference/strategies/{name}.md"
        files.append(File.generated(config, path, content=strategy_page(name)))
    for path, source in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, path, content=text.replace("](docs/", "](../")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace each comment that asks for a part by the part.

    Raises:
        KeyError: no part has that name.
    """
    return _PART.sub(lambda match: PARTS[match[1]](*match[2].split()), markdown)


def on_post_build(config: Any) -> None:
    """Refuse a site that would load anything from another host.

    Raises:
        PluginError: a page does; names the page and the addresses.
    """
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        found = [a or b for a, b in _FOREIGN.findall(path.read_text(encoding="utf-8"))]
        if found:
            raise PluginError(f"{path}: loads from another host: {', '.join(sorted(set(found)))}")
