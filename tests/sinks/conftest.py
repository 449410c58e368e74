"""Fixtures of the tests of sinks."""

from __future__ import annotations

import pytest

from tests.sinks.mqtt_certificates import Certificates, make_certificates


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """What an authority signed, well and badly."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    return Certificates(folder)
