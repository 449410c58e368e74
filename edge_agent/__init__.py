"""edge_agent: cameras in, detections out over MQTT, on the box beside the camera."""

from __future__ import annotations

__version__ = "0.1.0"
