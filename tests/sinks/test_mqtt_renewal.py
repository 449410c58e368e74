"""Passwords and certificates that are renewed while the agent runs: it must not need a restart, nor hold on to the old ones."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent import broker_sink
from edge_agent.errors import SinkUnavailable
from edge_agent.events import STATUS_ONLINE
from edge_agent.sinks.mqtt import MqttSink
from tests.certificates import Certificate, authority
from tests.conftest import Mosquitto, make_config, needs
from tests.sinks.mqtt_parts import connected


def configured(folder: Path, port: int, **mqtt: object) -> MqttSink:
    """As the daemon makes it."""
    tables = {"mqtt": {"host": "127.0.0.1", "port": port, **mqtt}, "cameras": [{"id": "front", "source": "synthetic"}]}
    return broker_sink.build_sink(make_config(tables, folder / "agent.toml"), "dev")


def refusal(sink: MqttSink) -> str:
    with pytest.raises(SinkUnavailable) as caught:
        sink.connect()
    return str(caught.value)


@pytest.fixture
def passwords(tmp_path: Path) -> Callable[[str], Mosquitto]:
    """Starts a mosquitto, on one port, where ``edge`` has that password."""
    program = needs("mosquitto_passwd", "mosquitto")
    file = tmp_path / "passwords"
    broker = Mosquitto(tmp_path, lines=("allow_anonymous false", f"password_file {file}"))

    def start(password: str) -> Mosquitto:
        broker.stop()
        subprocess.run([program, "-b", "-c", str(file), "edge", password], check=True, capture_output=True)
        return broker.start()

    return start


def test_a_new_password_is_read_where_the_old_one_is_refused(
    passwords: Callable[[str], Mosquitto], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = passwords("0ld-secret")
    file = tmp_path / "password"
    file.write_text("0ld-secret\n")
    sink = configured(tmp_path, broker.port, username="edge", password_file="password")
    with connected(sink):
        assert sink.write([STATUS_ONLINE]) == [None]
    passwords("n3w-secret")
    try:
        assert "check [mqtt] username and password_file" in refusal(sink)
        file.unlink()  # while it is being replaced
        assert "check [mqtt] username and password_file" in refusal(sink)
        assert "password and certificates cannot be read again" in caplog.text
        file.write_text("n3w-secret\n")
        with connected(sink):
            assert sink.write([STATUS_ONLINE]) == [None]
        assert "secret" not in caplog.text
        assert "secret" not in repr(sink.context)
    finally:
        broker.stop()


def test_a_new_certificate_is_shown_and_a_new_authority_trusted_where_the_old_ones_have_expired(tmp_path: Path) -> None:
    old, new = authority(tmp_path / "old", "old"), authority(tmp_path / "new", "new")

    def put(certificate: Certificate, name: str) -> None:
        shutil.copy(certificate.file, tmp_path / f"{name}.pem")
        shutil.copy(certificate.key, tmp_path / f"{name}.key")

    def put_ours(ca: Certificate, client: Certificate) -> None:
        shutil.copy(ca.file, tmp_path / "ca.pem")
        put(client, "client")

    put(new.issue("server", "IP:127.0.0.1"), "server")
    lines = (f"cafile {new.certificate.file}", f"certfile {tmp_path}/server.pem", f"keyfile {tmp_path}/server.key")
    broker = Mosquitto(tmp_path, lines=(*lines, "require_certificate true", "allow_anonymous true")).start()
    try:
        put_ours(old.certificate, old.issue("client"))
        tls = {"ca_file": "ca.pem", "cert_file": "client.pem", "key_file": "client.key"}
        sink = configured(tmp_path, broker.port, tls=tls)
        assert "certificate is not trusted" in refusal(sink)
        put_ours(new.certificate, new.issue("late", from_days=-3, to_days=-1))
        assert "our client certificate" in refusal(sink)  # why is lost where the broker hangs up too fast
        put_ours(new.certificate, new.issue("client"))
        with connected(sink):
            assert sink.write([STATUS_ONLINE]) == [None]
    finally:
        broker.stop()
