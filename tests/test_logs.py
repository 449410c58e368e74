"""Log lines: limited, redacted, and readable by who reads them."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import logs
from edge_agent.redaction import redact

FORMATTERS = [logs.TextFormatter(), logs.JournalFormatter(), logs.JsonFormatter()]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def record(message: str, *arguments: object, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("edge_agent.test", level, __file__, 1, message, arguments, None)


def failed(message: str, error: str) -> logging.LogRecord:
    made = record(message, level=logging.ERROR)
    try:
        raise ValueError(error)
    except ValueError:
        made.exc_info = sys.exc_info()
    return made


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, put back as it was."""
    logger, ours = logging.getLogger(), logging.getLogger("edge_agent")
    before = list(logger.handlers), logger.level, ours.level
    yield logger
    logger.handlers[:], logger.level = before[0], before[1]
    ours.setLevel(before[2])


# --------------------------------------------------------------------------------------------------------- rate limit


def test_a_burst_passes_then_silence_then_the_count_of_what_was_held_back() -> None:
    clock = Clock()
    limit = logs.RateLimit(clock)
    passed = [limit.filter(record("lost camera=%s", "front")) for _ in range(12)]
    assert passed == [True] * logs.BURST + [False] * (12 - logs.BURST)
    clock.now += logs.PERIOD_S - 0.001
    assert not limit.filter(record("lost camera=%s", "front"))
    clock.now += 0.001
    after = record("lost camera=%s 100%% again", "front")
    assert limit.filter(after)
    assert after.getMessage() == "lost camera=front 100% again"  # another kind of line: nothing was held back of it
    last = record("lost camera=%s", "front")
    assert limit.filter(last)
    assert last.getMessage() == "lost camera=front (held back 8 like it)"
    following = [record("lost camera=%s", "front") for _ in range(logs.BURST)]
    assert [limit.filter(line) for line in following] == [True] * (logs.BURST - 1) + [False]
    assert {line.getMessage() for line in following} == {"lost camera=front"}


def test_a_percent_sign_in_an_argument_survives_the_count() -> None:
    clock = Clock()
    limit = logs.RateLimit(clock)
    for _ in range(6):
        limit.filter(record("disk full=%s", "99%s"))
    clock.now += logs.PERIOD_S
    last = record("disk full=%s", "99%s")
    assert limit.filter(last)
    assert last.getMessage() == "disk full=99%s (held back 1 like it)"


@given(st.lists(st.floats(0, 30), max_size=100))
def test_every_line_is_either_passed_or_counted(gaps: list[float]) -> None:
    clock = Clock()
    limit = logs.RateLimit(clock)
    passed = held = 0
    for gap in [*gaps, logs.PERIOD_S]:
        clock.now += gap
        line = record("lost camera=%s", "front")
        if limit.filter(line):
            passed += 1
            if "held back" in line.getMessage():
                held += int(line.getMessage().split("held back ")[1].split()[0])
    assert passed + held == len(gaps) + 1


def test_cameras_are_limited_each_by_itself_whatever_else_the_line_says() -> None:
    limit = logs.RateLimit(Clock())
    assert all(limit.filter(record("lost camera=%s code=%d", f"cam{camera}", 1)) for camera in range(50))
    assert [limit.filter(record("lost camera=%s code=%d", "x", number)) for number in range(7)] == [True] * 5 + [False] * 2


def test_what_is_bounded_elsewhere_is_never_held_back() -> None:
    limit = logs.RateLimit(Clock())
    for _ in range(5 * logs.BURST):
        line = record("command obeyed name=%s", "mute")
        line.always = True
        assert limit.filter(line)


def test_the_limit_keeps_a_bounded_memory() -> None:
    limit = logs.RateLimit(Clock())
    for number in range(5000):
        limit.filter(record("line %d", number))
    assert len(limit._seen) <= 1001


# ---------------------------------------------------------------------------------------------------------- formatters


def test_text_has_a_level_only_where_it_matters() -> None:
    plain = logs.TextFormatter().format(record("camera online camera=%s", "front", level=logging.INFO))
    assert plain.endswith(" camera online camera=front")
    assert "info" not in plain
    assert " warning: slow" in logs.TextFormatter().format(record("slow"))


def test_every_line_of_a_traceback_has_its_priority_in_the_journal() -> None:
    lines = logs.JournalFormatter().format(failed("defect", "two\nlines")).splitlines()
    assert len(lines) > 4
    assert all(line.startswith("<3>") for line in lines)
    assert lines[0] == "<3>defect"


@pytest.mark.parametrize(
    ("level", "priority"), [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2), (25, 6)]
)
def test_journal_priorities(level: int, priority: int) -> None:
    assert logs.JournalFormatter().format(record("x", level=level)) == f"<{priority}>x"


def test_json_has_the_pairs_of_the_message_as_fields_which_cannot_replace_its_own() -> None:
    line = logs.JsonFormatter().format(record("online camera=%s decoder=%r size=%dx%d level=none", "front", "h264 (FFmpeg)", 640, 480))
    found = json.loads(line)
    assert (found["camera"], found["decoder"], found["size"]) == ("front", "h264 (FFmpeg)", "640x480")
    assert (found["level"], found["logger"]) == ("warning", "edge_agent.test")
    assert found["message"].startswith("online camera=front")
    assert found["at"].endswith("Z")


def test_json_has_the_whole_of_the_last_pair_and_numbers_as_numbers() -> None:
    made = record("unavailable camera=%s retry_in=%.1fs queued=%d rate=%.2f id=%s reason=%s", "f", 1.5, 7, 2.5, "007", "no answer: x=1 y")
    found = json.loads(logs.JsonFormatter().format(made))
    assert (found["queued"], found["rate"], found["retry_in"], found["id"]) == (7, 2.5, "1.5s", "007")
    assert found["reason"] == "no answer: x=1 y"
    assert "x" not in found
    quoted = json.loads(logs.JsonFormatter().format(record("lost runtime=%r and more", "LiteRT 2")))
    assert quoted["runtime"] == "LiteRT 2"


@given(st.text())
def test_json_is_one_valid_line_whatever_is_logged(text: str) -> None:
    line = logs.JsonFormatter().format(record("said text=%s", text))
    assert "\n" not in line
    assert json.loads(line)["message"] == redact(f"said text={text}")


def test_json_keeps_a_traceback_in_its_line() -> None:
    line = logs.JsonFormatter().format(failed("defect", "rtsp://user:Sesame@cam/1"))
    assert "\n" not in line
    assert "ValueError" in json.loads(line)["traceback"]


@given(
    st.sampled_from(FORMATTERS), st.sampled_from(["", "/", "@", ":", "#", "?", "%", "'", "é"]), st.sampled_from(["rtsp", "HTTPS", "mqtt"])
)
def test_no_format_shows_the_password_of_an_address(formatter: logging.Formatter, between: str, scheme: str) -> None:
    url = f"{scheme}://user:Sesame{between}Open@cam/1"
    for made in (record("camera lost camera=%s url=%s reason=%r", "front", url, url), failed(f"at {url}", f"cannot open {url}")):
        line = formatter.format(made)
        assert "Sesame" not in line
        assert "Open" not in line
        assert "cam/1" in line


# --------------------------------------------------------------------------------------------------------------- setup


def test_setup_sends_our_facts_and_only_warnings_of_the_libraries(root: logging.Logger) -> None:
    stream = io.StringIO()
    logs.setup("info", "json", stream)
    logging.getLogger("edge_agent.capture").info("camera online camera=%s", "front")
    logging.getLogger("edge_agent.capture").debug("not this")
    logging.getLogger("amqtt").info("nor this")
    logging.getLogger("amqtt").warning("but this")
    for _ in range(20):
        logging.getLogger("edge_agent.capture").warning("again camera=%s", "front")
    messages = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert messages == ["camera online camera=front", "but this", *["again camera=front"] * logs.BURST]


def test_setup_twice_does_not_log_twice(root: logging.Logger) -> None:
    stream = io.StringIO()
    logs.setup("debug", "text", stream)
    logs.setup("debug", "auto", stream)
    logging.getLogger("edge_agent").debug("once")
    assert stream.getvalue().count("once") == 1
    assert "<7>" not in stream.getvalue()


def test_setup_with_stderr_closed_logs_to_nowhere(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    logs.setup("info", "auto")
    logging.getLogger("edge_agent").error("nobody hears this")
    assert all(isinstance(handler, logging.NullHandler) for handler in root.handlers)


def test_the_journal_is_known_by_device_and_inode_of_the_stream(root: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, os.fdopen(os.dup(ours.fileno()), "w") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert logs.is_journal(stream)
        logs.setup("info", "auto", stream)
        logging.getLogger("edge_agent").info("started")
        stream.flush()
        assert theirs.recv(100) == b"<6>started\n"
        assert not logs.is_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        for value in ("", "x:y", "1", "1:2:3"):
            assert not logs.is_journal(stream, {"JOURNAL_STREAM": value})
        assert not logs.is_journal(stream, {})


def test_a_file_is_no_journal_even_if_the_variable_names_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (tmp_path_factory.mktemp("log") / "log").open("w") as stream:
        status = os.fstat(stream.fileno())
        assert not logs.is_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
    assert not logs.is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})
