"""The version of the package, for those who write it into files."""

from __future__ import annotations

__version__ = "0.1.0"
