"""Whether this Python can use the distribution's GStreamer, for the tests that need it."""

from __future__ import annotations

import pytest

from edge_agent.errors import ConfigError
from edge_agent.libraries import gstreamer

try:
    gstreamer()
    missing = ""
except ConfigError as error:
    missing = str(error)

# The bindings are for the distribution's own Python, which scripts/test prefers.
needs_gstreamer = pytest.mark.skipif(bool(missing), reason=missing or "GStreamer is there")
