"""Makes a connection for paho within a bounded time, whatever hangs: the name server, the network, or a handshake.

Python cannot bound a look-up, and paho's handshakes bound each read but not all of them together; so it happens in a
thread of its own, which is left behind when time is up. What can be broken off is: only a look-up goes on until the
system's resolver gives up, and until then nothing else is tried.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from dataclasses import dataclass

import paho.mqtt.client as paho
from paho.mqtt.properties import Properties

from edge_agent.sinks._mqtt_paho import BoundedClient
from edge_agent.sinks._mqtt_words import NoAnswer

_LEAST_S = 0.1


@dataclass(frozen=True)
class Address:
    """Where the broker listens: a host and port, or the path of a Unix socket."""

    host: str
    port: int
    unix_socket: str | None = None


class Dialling:
    """One attempt: :meth:`connect` in one thread, :meth:`break_off` from another."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.address, self._timeout_s = address, timeout_s
        self._until = time.monotonic() + timeout_s
        self._stage = f"the name server did not answer in {timeout_s:g} s"
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._broken_off = False

    @property
    def no_answer(self) -> NoAnswer:
        """What to say if time is up now."""
        return NoAnswer(self._stage)

    def connect(self) -> socket.socket:
        """The first of the host's addresses that answers. Raises OSError."""
        if self.address.unix_socket is not None:
            self._stage = f"the broker does not take the connection ({self._timeout_s:g} s)"
            return self._attempt(socket.AF_UNIX, self.address.unix_socket, self._timeout_s)
        found = socket.getaddrinfo(self.address.host, self.address.port, type=socket.SOCK_STREAM)
        failure: OSError | None = None
        for position, (family, _, _, _, sockaddr) in enumerate(found):
            self._stage = f"no answer in {self._timeout_s:g} s (wrong address, or a firewall)"
            share_s = (self._until - time.monotonic()) / (len(found) - position)
            try:
                return self._attempt(family, sockaddr, max(_LEAST_S, share_s))
            except OSError as error:
                # The last one to refuse says more than one that is silent.
                failure = error if failure is None or not isinstance(error, TimeoutError) else failure
        raise failure or OSError(f"{self.address.host} has no address")

    def _attempt(self, family: int, sockaddr: object, timeout_s: float) -> socket.socket:
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        with self._lock:
            if self._broken_off:
                connection.close()
                raise self.no_answer
            self._connection = connection
        try:
            connection.connect(sockaddr)  # type: ignore[arg-type]  # as getaddrinfo(3) made it
        except TimeoutError:
            connection.close()
            raise self.no_answer from None
        except BaseException:
            connection.close()
            raise
        connection.settimeout(max(_LEAST_S, self._until - time.monotonic()))
        self._stage = f"took the connection but did not answer the handshake in {self._timeout_s:g} s"
        return connection

    def break_off(self) -> None:
        """Whoever connects, or shakes hands, fails at once."""
        with self._lock:
            self._broken_off = True
            if self._connection is not None:
                with contextlib.suppress(OSError):
                    # Not TLS's own shutdown: that is for the thread that shakes hands.
                    socket.socket.shutdown(self._connection, socket.SHUT_RDWR)

    def wrap(self, connection: socket.socket, tls: ssl.SSLContext, host: str) -> ssl.SSLSocket:
        """TLS over the connection. Raises OSError."""
        with self._lock:
            self._connection = wrapped = tls.wrap_socket(connection, server_hostname=host, do_handshake_on_connect=False)
        wrapped.settimeout(max(_LEAST_S, self._until - time.monotonic()))
        wrapped.do_handshake()
        return wrapped

    def close(self) -> None:
        """The attempt failed, perhaps with a connection that nobody else knows."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()


class DialledClient(BoundedClient):
    """paho's client over a connection that we make. Where paho no longer asks for it so, it makes its own."""

    dialling: Dialling

    def _create_socket_connection(self) -> socket.socket:
        return self.dialling.connect()

    def _create_unix_socket_connection(self) -> socket.socket:
        return self.dialling.connect()

    def _ssl_wrap_socket(self, tcp_sock: socket.socket) -> ssl.SSLSocket:
        assert self._ssl_context is not None
        return self.dialling.wrap(tcp_sock, self._ssl_context, self._host)


class Dial(threading.Thread):
    """One attempt to connect a client, handshakes included."""

    def __init__(self, client: DialledClient, address: Address, keepalive_s: int, timeout_s: float, properties: Properties | None) -> None:
        super().__init__(name="mqtt-dial", daemon=True)
        self._client, self._keepalive_s, self._timeout_s = client, keepalive_s, timeout_s
        self._address, self._properties = address, properties
        self._failure: Exception | None = None
        self._left_behind = False
        self._lock = threading.Lock()
        client.dialling = Dialling(address, timeout_s)
        client.connect_timeout = timeout_s

    def run(self) -> None:
        try:
            host = self._address.unix_socket or self._address.host
            self._client.connect(host, self._address.port, self._keepalive_s, properties=self._properties)
        except Exception as error:  # raised by ``wait``, in the thread that asked
            self._failure = error
            self._client.dialling.close()
        with self._lock:
            if self._left_behind:
                _hang_up(self._client)

    def wait(self) -> None:
        """Dial, and return once connected. Raises what went wrong, NoAnswer among it."""
        self.start()
        self.join(self._timeout_s)
        with self._lock:
            self._left_behind = self.is_alive()
        if self._left_behind:
            dialling = self._client.dialling
            why = dialling.no_answer
            dialling.break_off()
            self.join(_LEAST_S)  # at once, but where it is the name server that it waits for
            raise why
        if isinstance(self._failure, TimeoutError):
            raise self._client.dialling.no_answer from None
        if self._failure is not None:
            raise self._failure


def _hang_up(client: paho.Client) -> None:
    connection = client.socket()
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.close()
