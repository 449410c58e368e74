"""What of paho's insides the transport builds on, by name: an update that takes one away fails here, and says which."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.sinks import _mqtt_dial, _mqtt_paho
from tests.conftest import REPOSITORY

METHODS = {
    "_create_socket_connection": ["self"],
    "_create_unix_socket_connection": ["self"],
    "_do_on_publish": ["self", "mid", "reason_code", "properties"],
    "_handle_connack": ["self"],
    "_handle_pubrec": ["self"],
    "_packet_handle": ["self"],
    "_packet_read": ["self"],
    "_sock_recv": ["self", "bufsize"],
    "_sock_send": ["self", "buf"],
    "_ssl_wrap_socket": ["self", "tcp_sock"],
}
"""Overridden or called, with the names of their parameters."""
ATTRIBUTES = {"_host", "_in_packet", "_keepalive", "_out_message_mutex", "_out_messages", "_protocol", "_sock", "_ssl_context"}
OURS = {"_reading", "_read_what_is_left"}


def client() -> paho.Client:
    return paho.Client(CallbackAPIVersion.VERSION2)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_method_is_there_and_takes_what_it_took(name: str) -> None:
    assert list(inspect.signature(getattr(paho.Client, name)).parameters) == METHODS[name]


def test_the_attributes_are_there() -> None:
    assert {name for name in ATTRIBUTES if not hasattr(client(), name)} == set()
    assert {"packet", "remaining_length"} <= client()._in_packet.keys()


def test_no_other_private_name_of_pahos_is_used() -> None:
    text = Path(_mqtt_paho.__file__).read_text()
    dial = Path(_mqtt_dial.__file__).read_text()
    text += dial[dial.index("class DialledClient") : dial.index("class Dial(")]
    used = set(re.findall(r"(?:self|super\(\))\.(_[a-z]\w*)|def (_[a-z]\w*)\(self", text))
    assert {one or other for one, other in used} == METHODS.keys() | ATTRIBUTES | OURS


def test_the_version_is_one_that_was_tried() -> None:
    assert re.search(r'"paho-mqtt>=2\.2,<3"', (REPOSITORY / "pyproject.toml").read_text())
    assert importlib.metadata.version("paho-mqtt").split(".")[0] == "2"
