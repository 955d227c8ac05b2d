"""The embedded suites by name, as a configuration names them."""

from __future__ import annotations

from collections.abc import Mapping

from lifealign.data.suites.contested import CONTESTED
from lifealign.data.suites.long import LONG
from lifealign.data.suites.planted import PLANTED
from lifealign.data.suites.revised import REVISED
from lifealign.data.suites.suite import Suite

SUITES: Mapping[str, Suite] = {suite.name: suite for suite in (PLANTED, CONTESTED, REVISED, LONG)}
