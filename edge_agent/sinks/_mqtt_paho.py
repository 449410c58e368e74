"""paho's client, with what it leaves undone: packets too large to be kept, refused QoS 2, full WebSockets, brokers without a keepalive."""

from __future__ import annotations

import contextlib

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

INBOUND_LARGEST = 64 * 1024
"""Bytes of a packet that we take. A broker of MQTT 5 is told so; what others send beyond is read and not kept."""
_CHUNK = 64 * 1024
_FAILURE = 0x80
_UNSPECIFIED = 0x80


class BoundedClient(paho.Client):
    """Keeps at most the beginning of a packet, however long anybody makes it."""

    _reading = False

    @property
    def received_bytes(self) -> int:
        """How long the packet that is being handled was; of more than INBOUND_LARGEST only the beginning is there."""
        return int(self._in_packet["remaining_length"])

    def _sock_recv(self, bufsize: int) -> bytes:
        """As paho's, in pieces: it would ask for the whole of a packet of 256 MB, and get the memory for it first."""
        del self._in_packet["packet"][INBOUND_LARGEST:]
        return super()._sock_recv(min(bufsize, _CHUNK))

    def _sock_send(self, buf: bytes | bytearray) -> int:
        """As paho's, whose WebSocket says 0 when it kept the rest and wants the same again; paho would forget the packet.

        And where the broker has hung up, what it said last is still there to be read: acknowledgements, and why. paho would
        close the socket, and leave that unread.
        """
        try:
            sent = super()._sock_send(buf)
        except BlockingIOError:
            raise
        except OSError:
            self._read_what_is_left()
            raise
        if sent == 0 and buf:
            raise BlockingIOError
        return sent

    def _read_what_is_left(self) -> None:
        with contextlib.suppress(Exception):  # it may be nonsense, and the connection is lost anyway
            while not self._reading and self._sock is not None and self._packet_read() == MQTTErrorCode.MQTT_ERR_SUCCESS:
                pass

    def _packet_read(self) -> MQTTErrorCode:
        self._reading = True  # what is read may make paho write, and that must not read in its turn
        try:
            return super()._packet_read()
        finally:
            self._reading = False

    def _packet_handle(self) -> MQTTErrorCode:
        del self._in_packet["packet"][INBOUND_LARGEST:]
        return super()._packet_handle()

    def _handle_connack(self) -> MQTTErrorCode:
        """As paho's, but where the broker wants no keepalive (0) we go on with ours, or nobody notices when it is gone."""
        asked = self._keepalive
        code = super()._handle_connack()
        self._keepalive = self._keepalive or asked
        return code

    def _handle_pubrec(self) -> MQTTErrorCode:
        """A PUBREC that says no ends the matter (MQTT 5, 4.3.3); paho would go on, and take the message for delivered."""
        packet = bytes(self._in_packet["packet"][:3])
        if self._protocol != MQTTProtocolVersion.MQTTv5 or len(packet) < 3 or packet[2] < _FAILURE:
            return super()._handle_pubrec()
        mid = int.from_bytes(packet[:2], "big")
        with self._out_message_mutex:
            if mid not in self._out_messages:
                return MQTTErrorCode.MQTT_ERR_SUCCESS
            return self._do_on_publish(mid, _reason(packet[2]), Properties(PacketTypes.PUBREC))  # type: ignore[no-untyped-call]  # paho has no types there


def _reason(code: int) -> ReasonCode:
    try:
        return ReasonCode(PacketTypes.PUBREC, identifier=code)
    except ValueError:  # none that a PUBREC may have
        return ReasonCode(PacketTypes.PUBREC, identifier=_UNSPECIFIED)
