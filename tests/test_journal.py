"""Entries for the journal, read at the other end of a real socket as journald reads them."""

from __future__ import annotations

import array
import fcntl
import io
import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import journal, logs
from edge_agent.journal import Journal, encoded, field_name

F_GET_SEALS = 1034


def decoded(data: bytes) -> dict[str, str]:
    """As the protocol's description says it is read."""
    found: dict[str, str] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            found[name.decode()] = value.decode()
            data = rest
        else:
            (length,) = struct.unpack("<Q", rest[:8])
            found[name.decode()] = rest[8 : 8 + length].decode()
            assert rest[8 + length : 9 + length] == b"\n"
            data = rest[9 + length :]
    return found


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "socket"))
        receiver.settimeout(5)
        yield receiver


@pytest.fixture
def logger(journald: socket.socket) -> Iterator[logging.Logger]:
    to = Journal(journald.getsockname())
    found = logging.getLogger("edge_agent.test_journal")
    found.handlers[:] = [logs.JournalHandler(to, io.StringIO())]
    found.propagate, found.level = False, logging.DEBUG
    yield found
    found.handlers[:] = []
    to.close()


def test_the_pairs_of_a_message_are_fields(journald: socket.socket, logger: logging.Logger) -> None:
    logger.warning("camera lost camera=%s silent_for=%.1fs reason=%s", "front", 2.5, "no such device: x=1")
    found = decoded(journald.recv(65536))
    assert found["MESSAGE"] == "camera lost camera=front silent_for=2.5s reason=no such device: x=1"
    assert found["PRIORITY"] == "4"
    assert (found["EDGE_CAMERA"], found["EDGE_REASON"]) == ("front", "no such device: x=1")
    assert found["SYSLOG_IDENTIFIER"] == "edge-agent"
    assert found["LOGGER"] == "edge_agent.test_journal"
    assert found["CODE_FUNC"] == "test_the_pairs_of_a_message_are_fields"
    assert found["CODE_FILE"].endswith("test_journal.py")
    assert int(found["CODE_LINE"]) > 0


def test_a_defect_is_one_entry_with_its_traceback_and_secrets_stay_out(journald: socket.socket, logger: logging.Logger) -> None:
    try:
        raise ValueError("rtsp://user:Sesame@camera/")
    except ValueError:
        logger.exception("reader failed url=%s", "rtsp://user:Sesame@camera/")
    found = decoded(journald.recv(65536))
    assert found["PRIORITY"] == "3"
    assert "Traceback (most recent call last)" in found["MESSAGE"]
    assert "Sesame" not in str(found)


def test_no_pair_takes_the_place_of_a_field_of_the_journals_own(journald: socket.socket, logger: logging.Logger) -> None:
    logger.info("odd PRIORITY=0 MESSAGE=fake _PID=1 x=1")
    found = decoded(journald.recv(65536))
    assert found["PRIORITY"] == "6"
    assert found["EDGE_PRIORITY"] == "0"
    assert found["MESSAGE"].startswith("odd ")


def test_an_entry_that_is_too_large_for_a_datagram_goes_as_a_sealed_file(journald: socket.socket, logger: logging.Logger) -> None:
    text = "x" * 1_000_000
    logger.info("large text=%s", text)
    data, ancillary, *_ = journald.recvmsg(65536, socket.CMSG_SPACE(4))
    assert data == b""
    handles = array.array("i", ancillary[0][2])
    try:
        assert fcntl.fcntl(handles[0], F_GET_SEALS) == 0xF
        assert decoded(os.pread(handles[0], 3_000_000, 0))["EDGE_TEXT"] == text
    finally:
        os.close(handles[0])


def test_a_journal_that_was_restarted_is_found_again_and_one_that_is_gone_is_replaced_by_the_stream(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    stream = io.StringIO()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as first:
        first.bind(str(path))
        to = Journal(str(path))
    handler = logs.JournalHandler(to, stream)
    record = logging.LogRecord("edge_agent.x", logging.ERROR, __file__, 1, "one two=3", None, None)
    handler.emit(record)
    assert stream.getvalue() == "<3>one two=3\n"
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.bind(str(path))
        second.settimeout(5)
        handler.emit(record)
        assert decoded(second.recv(4096))["EDGE_TWO"] == "3"
    to.close()
    assert stream.getvalue().count("\n") == 1


def test_a_journal_that_does_not_keep_up_keeps_nobody_waiting(journald: socket.socket) -> None:
    to = Journal(journald.getsockname())
    sent = [to.send({"MESSAGE": "x" * 1000}) for _ in range(5000)]
    assert sent[0]
    assert not all(sent)
    to.close()


def test_where_there_is_no_journal_it_is_said() -> None:
    with pytest.raises(OSError, match="No such file"):
        Journal("/nowhere/socket")


def test_setup_takes_it_only_where_the_stream_goes_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair()
    root, package = logging.getLogger(), logging.getLogger("edge_agent")
    before, level, own = root.handlers[:], root.level, package.level
    with one, other, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver, one.makefile("w") as stream:
        receiver.bind(str(tmp_path / "journal"))
        receiver.settimeout(5)
        monkeypatch.setattr(journal, "SOCKET", str(tmp_path / "journal"))
        status = os.fstat(one.fileno())
        try:
            monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
            logs.setup("info", "auto", stream)
            logging.getLogger("edge_agent.x").info("hello camera=front")
            assert decoded(receiver.recv(4096))["EDGE_CAMERA"] == "front"
            root.handlers[0].close()
            monkeypatch.setenv("JOURNAL_STREAM", "1:1")
            logs.setup("info", "journal", stream)
            logging.getLogger("edge_agent.x").info("hello camera=front")
            assert other.recv(4096) == b"<6>hello camera=front\n"
        finally:
            root.handlers[:] = before
            root.setLevel(level)
            package.setLevel(own)


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text(st.characters(codec="utf-8")), max_size=6))
def test_any_text_comes_back(fields: dict[str, str]) -> None:
    assert decoded(encoded(fields)) == fields


@pytest.mark.parametrize("name", ["_PID", "1A", "a", "", "A B", "A=B", "A\nB", "Ä"])
def test_names_that_the_journal_refuses_are_left_out(name: str) -> None:
    assert encoded({name: "x"}) == b""


@given(st.text(max_size=200))
def test_any_key_has_a_name(key: str) -> None:
    assert encoded({field_name(key): "x"}) != b""
