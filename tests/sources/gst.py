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

# On CI the venv is of whichever Python is newest there, and the bindings are for the distribution's own.
needs_gstreamer = pytest.mark.skipif(bool(missing), reason=missing or "GStreamer is there")
