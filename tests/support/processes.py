"""Processes of their own, started from one that has loaded what they need."""

from __future__ import annotations

import multiprocessing

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lifealign.memory.learning", "lifealign.memory.api", "support.rows"])
