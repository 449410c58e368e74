"""How a command is read: whatever anyone may send, what comes out is a command or a refusal that helps."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edge_agent import _commands_payload as payload
from edge_agent._commands_payload import ARGUMENTS, LARGEST, Command, CommandResult, HaltArguments, Refusal, SetArguments, encode, parse
from edge_agent.events import ErrorInfo, ReplyTo

SCHEMAS = {name: Draft202012Validator(schema) for name, schema in payload.schemas().items()}


def sent(name: object = "report", arguments: object = None, **more: Any) -> bytes:
    content = {"id": "1", "name": name, **more}
    return json.dumps(content if arguments is None else {**content, "arguments": arguments}).encode()


def refused(data: bytes) -> Refusal:
    with pytest.raises(Refusal) as found:
        parse(data)
    return found.value


def test_a_command_has_an_id_a_name_and_arguments_of_its_own() -> None:
    assert parse(b'{"id": "a-1", "name": "report"}') == Command("a-1", "report", ARGUMENTS["report"]())
    assert parse(sent("mute", {"duration_s": 60})).arguments == HaltArguments(duration_s=60)
    assert parse(sent("pause", {"keep": True})).arguments == HaltArguments(keep=True)
    assert parse(b' \n{"arguments": {"max_fps": 5}, "name": "set", "id": "1"}\n').arguments == SetArguments(max_fps=5)


def test_null_and_absent_are_two_things_for_set() -> None:
    assert parse(sent("set", {"max_fps": None})).arguments.model_fields_set == {"max_fps"}
    assert refused(sent("set", {"keep": True})).code == "invalid_argument"


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"", "not_json", "empty"),
        (b"  ", "not_json", "empty"),
        (b"resume", "not_json", "character 1"),
        (b'{"id": "1", "name": "report"', "not_json", "character 2"),
        (b"\xff\xfe", "not_json", "UTF-8"),
        (b'{"id": "1", "name": "pause", "arguments": {"duration_s": NaN}}', "not_json", "NaN is no JSON"),
        (b'{"id": "1", "name": "pause", "arguments": {"duration_s": -Infinity}}', "not_json", "no JSON"),
        (b'{"id": "1", "name": "pause", "arguments": {"duration_s": 1e999}}', "invalid_argument", "duration_s"),
        (b'{"id": "1", "name": "pause", "arguments": {"duration_s": ' + b"9" * 5000 + b"}}", "not_json", "not valid JSON"),
        (b'{"id": "1", "id": "2", "name": "report"}', "not_json", "twice"),
        (b'{"id": "1", "name": "mute", "arguments": {"keep": true, "keep": false}}', "not_json", "twice"),
        (b'{"id": "\\ud800", "name": "report"}', "not_json", "surrogate"),
        (b'{"id": "1", "name": "report", "\\udfff": 1}', "not_json", "surrogate"),
        (b"[" * 5000 + b"]" * 5000, "too_deep", "levels"),
        (b'{"id": "1", "name": "report", "arguments": {"a": {"b": {"c": {"d": 1}}}}}', "too_deep", "levels"),
        (b"[" * 100_000, "too_large", str(LARGEST)),
        (b" " * 10_000_000, "too_large", str(LARGEST)),
        (b"[]", "invalid", "object"),
        (b'"report"', "invalid", "object"),
        (b"null", "invalid", "object"),
        (b"1", "invalid", "object"),
        (b"{}", "invalid", "id"),
        (b'{"name": "report"}', "invalid", "id"),
        (b'{"id": 1, "name": "report"}', "invalid", "id"),
        (b'{"id": "", "name": "report"}', "invalid", "id"),
        (b'{"id": "  ", "name": "report"}', "invalid", "id"),
        (b'{"id": "a\\nlevel=fatal", "name": "report"}', "invalid", "id"),
        (b'{"id": "\\u202e", "name": "report"}', "invalid", "id"),
        (sent(id="x" * 65), "invalid", "64"),
        (b'{"id": "1"}', "unknown_name", "pause, resume"),
        (sent("repotr"), "unknown_name", "did you mean 'report'"),
        (sent("REPORT"), "unknown_name", "no command"),
        (sent(["report"]), "unknown_name", "must be one of"),
        (sent("x\u001b[31m" * 100), "unknown_name", "no command"),
        (sent(when="now"), "invalid", "unknown key 'when'"),
        (sent("report", []), "invalid", "arguments"),
        (sent("report", {"verbose": True}), "unknown_argument", "takes none"),
        (sent("mute", {"duration": 5}), "unknown_argument", "duration_s, keep"),
        (sent("mute", {"duration_s": "5"}), "invalid_argument", "duration_s"),
        (sent("mute", {"duration_s": True}), "invalid_argument", "not true or false"),
        (sent("mute", {"duration_s": 0}), "invalid_argument", "greater than 0"),
        (sent("mute", {"duration_s": -1}), "invalid_argument", "greater than 0"),
        (sent("mute", {"duration_s": 1e9}), "invalid_argument", "less than"),
        (sent("mute", {"keep": 1}), "invalid_argument", "keep"),
        (sent("mute", {"keep": True, "duration_s": 5}), "invalid_argument", "leave out"),
        (sent("set", {}), "invalid_argument", "nothing to set"),
        (sent("set"), "invalid_argument", "nothing to set"),
        (sent("set", {"confidence": 0}), "invalid_argument", "confidence: input should be greater than 0"),
        (sent("set", {"confidence": 1.01}), "invalid_argument", "confidence"),
        (sent("set", {"confidence": "0.5"}), "invalid_argument", "confidence"),
        (sent("set", {"confidence": [0.5]}), "invalid_argument", "confidence"),
        (sent("set", {"max_fps": 0}), "invalid_argument", "max_fps"),
        (sent("set", {"max_fps": 1001}), "invalid_argument", "max_fps"),
        (sent("set", {"max_fps": True}), "invalid_argument", "not true or false"),
        (sent("snapshot", {"max_width": 1280.5}), "invalid_argument", "max_width"),
        (sent("snapshot", {"max_bytes": 1}), "invalid_argument", "max_bytes"),
        (sent("snapshot", {"within_s": 3600}), "invalid_argument", "within_s"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_what_to_do(data: bytes, code: str, says: str) -> None:
    refusal = refused(data)
    assert refusal.code == code
    assert says in str(refusal)
    assert len(str(refusal)) < 300, "an answer repeats little of what came"
    assert str(refusal).isprintable()


def test_a_refusal_says_whose_it_is_as_soon_as_that_is_known() -> None:
    assert refused(b"{").id is None
    assert refused(sent("nothing", id="me")).id == "me"
    refusal = refused(sent("mute", {"duration_s": 0}, id="me"))
    assert (refusal.id, refusal.name) == ("me", "mute")


def test_the_schema_allows_what_is_read_and_nothing_else_by_itself() -> None:
    for data in (sent(), sent("mute", {"duration_s": 5}), sent("set", {"max_fps": None}), sent("snapshot", {"max_width": 64})):
        parse(data)
        SCHEMAS["command"].validate(json.loads(data))
    for data in (sent("no"), sent("set", {"confidence": 0}), sent("mute", {"duration_s": 0}), sent(id="x" * 65), sent("report", {"a": 1})):
        assert not SCHEMAS["command"].is_valid(json.loads(data))


numbers = st.integers() | st.floats(allow_nan=False)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(st.characters(codec=None), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)
arguments = st.dictionaries(st.sampled_from(["duration_s", "keep", "max_fps", "confidence", "max_width", "x"]), anything, max_size=3)
near = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=70) | anything,
        "name": st.sampled_from([*ARGUMENTS, "x"]) | anything,
        "arguments": arguments | anything,
        "extra": anything,
    },
)


def _either(data: bytes) -> None:
    """A command as the schema has it, or a refusal that can be answered and logged."""
    refusal: Refusal | None = None
    try:
        command = parse(data)
    except Refusal as found:
        refusal = found
    if refusal is None:
        assert command.id.isprintable()
        SCHEMAS["command"].validate(json.loads(data))
        assert all(value is None or isinstance(value, bool) or math.isfinite(value) for value in vars(command.arguments).values())
        return
    assert str(refusal).isprintable()
    assert len(str(refusal)) < 400
    answer = CommandResult("dev", None, refusal.id, refusal.name, ok=False, at="", error=ErrorInfo(refusal.code, str(refusal)))
    SCHEMAS["command_result"].validate(json.loads(encode(answer, None).payload))


@given(st.binary(max_size=200))
@example(b'{"id": "1", "name": "mute", "arguments": {"duration_s": 1e-400}}')
@example(b'\xef\xbb\xbf{"id": "1", "name": "report"}')
def test_any_bytes_are_a_command_or_a_refusal(data: bytes) -> None:
    _either(data)


@given(anything | near)
def test_any_json_is_a_command_or_a_refusal(content: object) -> None:
    _either(json.dumps(content).encode())


@given(near, st.data())
def test_any_damage_to_what_is_nearly_a_command_is_a_command_or_a_refusal(content: object, data: st.DataObject) -> None:
    encoded = bytearray(json.dumps(content).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(encoded) - 1))
        encoded[position : position + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        encoded = encoded or bytearray(b"x")
    _either(bytes(encoded))


def test_an_answer_goes_where_it_is_wanted() -> None:
    reply_to = ReplyTo("someone/answers", b"\x00\x01")
    message = encode(CommandResult("dev", "front", "1", "report", ok=True, at="2026-01-01T00:00:00.000Z"), reply_to)
    assert (message.camera, message.reply_to) == ("front", reply_to)
