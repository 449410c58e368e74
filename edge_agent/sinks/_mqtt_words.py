"""Why a broker cannot be reached, or does not want us, in words for who can do something about it."""

from __future__ import annotations

import errno
import socket
import ssl
import time

from paho.mqtt.client import WebsocketConnectionError
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_agent import host

FAILURE = 0x80
UNSPECIFIED = frozenset({0x80, 0x83, 0x91, 0x92})
"""Unspecified, implementation specific, packet identifier in use or not found: they may pass, or not."""
PROTOCOL_ERROR, NOT_AUTHORIZED, KEEPALIVE, TAKEN_OVER, TOO_LARGE, QUOTA_EXCEEDED = 0x82, 0x87, 0x8D, 0x8E, 0x95, 0x97
NO_RETAIN, NO_QOS = 0x9A, 0x9B
NOT_WANTED = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x9C, 0x9D})
"""Refusals that will not change until somebody changes something: version, client id, password, permission, ban, address."""
OVERLOADED = frozenset({0x88, 0x89, 0x96, 0x97, 0x9F})
"""Unavailable, busy, too many messages or connections, quota."""

_EXPIRED, _NOT_YET_VALID = 10, 9
_OTHER_NAME = frozenset({62, 64})
_LONGEST_REASON = 200
_ALERTS = {
    "CERTIFICATE_REQUIRED": "it wants a client certificate: set [mqtt.tls] cert_file and key_file",
    "HANDSHAKE_FAILURE": "it may want a client certificate ([mqtt.tls] cert_file and key_file), or ciphers that this device has not",
    "UNKNOWN_CA": "it does not know the authority that signed our client certificate",
    "BAD_CERTIFICATE": "it does not accept our client certificate",
    "UNSUPPORTED_CERTIFICATE": "it does not accept our client certificate's kind",
    "CERTIFICATE_EXPIRED": "it says that our client certificate has expired",
    "CERTIFICATE_REVOKED": "it says that our client certificate is revoked",
    "CERTIFICATE_UNKNOWN": "it does not accept our client certificate",
    "ACCESS_DENIED": "it does not let our client certificate in",
    "NO_APPLICATION_PROTOCOL": "it speaks none of the protocols in [mqtt.tls] alpn",
    "UNRECOGNIZED_NAME": "it knows no host of the name that we asked for: see [mqtt.tls] server_name",
    "PROTOCOL_VERSION": "it and we have no version of TLS in common: see [mqtt.tls] min_version",
}
_AGAIN = "it is tried again"
_OUR_CONNECT = "it does not understand our CONNECT: its log says why"
_CONNECT_HINTS = {
    0x80: "it does not say why: see its log",
    0x81: _OUR_CONNECT,
    0x82: _OUR_CONNECT,
    0x83: "it does not say why: see its log",
    0x85: "the broker does not take our client id: set [mqtt] client_id to one that it knows",
    0x86: "check [mqtt] username and password_file",
    0x87: "check [mqtt] username and password_file, and whether the broker allows this client id or certificate",
    0x88: _AGAIN,
    0x89: _AGAIN,
    0x8A: "the broker has banned this client: see its log",
    0x8C: "the broker wants another way to authenticate than a password or a certificate",
    0x90: "the broker does not allow the topic of our last will, <base>/<device>/status: see [mqtt] base and the broker's ACL",
    0x95: "our CONNECT is larger than the broker allows: shorten [mqtt] base, client_id or the password",
    0x97: f"a limit of the broker's for this client or account is reached; {_AGAIN}",
    0x9A: "the broker retains nothing: from now on nothing is retained",
    0x9B: "the broker wants a lower QoS: from now on all goes with 0",
    0x9C: "the broker wants us to use another one: change [mqtt] host",
    0x9D: "the broker has moved: change [mqtt] host",
    0x9F: f"too many connect to it at once; {_AGAIN}",
}


_HINTS = {
    errno.ENETUNREACH: "this device has no network now",
    errno.EHOSTUNREACH: "it is switched off, not in this network, or behind a firewall",
    errno.ECONNREFUSED: "nothing listens there: is the broker running, and the port right?",
    errno.ENOENT: "no broker listens there: check [mqtt] unix_socket",
    errno.EACCES: "the socket's owner or mode does not let us in",
}
"""By what a system call said."""


class NoAnswer(TimeoutError):
    """Nothing happened within the time allowed; its text says at which step."""


def connection_problem(error: Exception, *, tls: bool) -> str:
    """Why a connection could not be made, and what to do about it."""
    if isinstance(error, socket.gaierror):
        temporary = error.errno == socket.EAI_AGAIN
        return "the name cannot be resolved" + (" now (the name server does not answer)" if temporary else ": check [mqtt] host")
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {_certificate_problem(error)}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {tls_problem(str(error.reason or error))}"
    if tls and isinstance(error, ConnectionResetError):
        return "the broker hung up during the TLS handshake; is this a TLS port?"
    if isinstance(error, WebsocketConnectionError):
        return "it is no MQTT broker over WebSockets, or not at that path: check [mqtt] port and [mqtt.websocket] path and headers"
    return _plain_problem(error)


def _plain_problem(error: Exception) -> str:
    if isinstance(error, NoAnswer):
        return str(error)
    if isinstance(error, TimeoutError):
        return "no answer (wrong address, or a firewall)"
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    hint = _HINTS.get(error.errno or 0) if isinstance(error, OSError) else None
    return said if hint is None else f"{said} ({hint})"


def tls_problem(reason: str) -> str:
    """OpenSSL's word for what failed, with what it means where it is the broker's alert."""
    return next(
        (hint for alert, hint in _ALERTS.items() if reason.upper().replace(" ", "_").endswith(alert)), f"{reason}; is this a TLS port?"
    )


def _certificate_problem(error: ssl.SSLCertVerificationError) -> str:
    found = error.verify_message
    if error.verify_code in {_EXPIRED, _NOT_YET_VALID}:
        now = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
        kept = "is kept by NTP" if host.clock_synced() else "is not set by NTP, so it may be wrong: see timedatectl"
        return f"{found}, by this device's clock, which says {now} and {kept}. Renew the broker's certificate, or set the clock"
    if error.verify_code in _OTHER_NAME:
        return f"{found}: it is for another host. Set [mqtt] host to a name in the certificate, or [mqtt.tls] server_name to it"
    return f"{found}; set [mqtt.tls] ca_file to the authority that signed it, or check this device's clock"


def refusal(code: ReasonCode, properties: Properties | None, *, has_password: bool) -> str:
    """What a CONNACK says, and what to do about it."""
    hint = _CONNECT_HINTS.get(code.value, "")
    if code.value == 0x84:  # 3.1.1 brokers answer a CONNECT of MQTT 5 so
        hint = 'set [mqtt] protocol = "3.1.1"'
    elif code.value in {0x86, 0x87} and not has_password:
        hint = f"no password is set; {hint}"
    return said(code, properties) + (f" ({hint})" if hint else "")


def lacks(most_qos: int, wanted_qos: int, *, may_retain: bool) -> list[str]:
    """What a broker that does only so much means for who listens."""
    found = []
    if not may_retain:
        found.append("it retains nothing: who subscribes sees status and heartbeat only when they are next sent")
    if most_qos == 0:
        found.append("QoS 0 only: nothing is acknowledged, so what the network loses is lost, and is not counted")
    elif most_qos < wanted_qos:
        found.append(f"QoS {most_qos} at most: [mqtt] qos = {wanted_qos} is not to be had")
    return found


def said(code: ReasonCode, properties: Properties | None) -> str:
    """A reason code by its name, with the broker's own text, and where it sends us."""
    parts = [str(code)]
    for name, shown in (("ReasonString", "{}"), ("ServerReference", "it names {}")):
        value = getattr(properties, name, None)
        if value:
            parts.append(shown.format(plain(str(value))))
    return ": ".join(parts)


def plain(text: str) -> str:
    """Somebody else's text as one line that is not too long."""
    return "".join(c if c.isprintable() else "?" for c in text[:_LONGEST_REASON])
