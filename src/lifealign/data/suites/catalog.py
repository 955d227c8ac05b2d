"""The embedded suites by name, as a configuration names them."""

from __future__ import annotations

from collections.abc import Mapping

from lifealign.core.stream_config import StreamConfig
from lifealign.data.suites.contested import CONTESTED
from lifealign.data.suites.drifting import DRIFTING, SUITE_OF_DRIFT
from lifealign.data.suites.long import LONG
from lifealign.data.suites.planted import PLANTED
from lifealign.data.suites.revised import REVISED
from lifealign.data.suites.suite import Suite

SUITES: Mapping[str, Suite] = {suite.name: suite for suite in (PLANTED, CONTESTED, REVISED, LONG, DRIFTING)}


def suite_of(config: StreamConfig) -> Suite:
    """The embedded suite that a stream names; of the drifting one, with the drift that it names."""
    assert config.suite is not None, "the stream lists its tasks"
    drift = getattr(config.sizes, "drift", None)
    return SUITES[config.suite] if drift is None else SUITE_OF_DRIFT[drift]
