"""Commands and their answers as they go over the wire, and how what comes in is read: by anyone's hand, so strictly.

What arrives is bytes from whoever may write to a topic. :func:`parse` either makes a :class:`Command` of them or raises
:class:`Refusal`, whose text says what to send instead; nothing else comes out of it, and nothing of the payload is logged.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema

from edge_agent.config_values import CommandName, Rate, Share, not_bool
from edge_agent.events import ErrorInfo, Kind, Message, ReplyTo, Timestamp
from edge_agent.health_event import CameraHealth, HealthEvent

LARGEST = 16 * 1024
"""Bytes of a command; the longest that makes sense has a few hundred."""
DEEPEST = 4
"""Levels of objects and arrays in one."""
LONGEST_ID = 64
LONGEST_DURATION_S = 31 * 24 * 3600.0
_SHOWN = 60

Code = Literal[
    "too_large", "not_json", "too_deep", "invalid", "unknown_name", "unknown_camera", "unknown_argument", "invalid_argument", "not_allowed",
    "wrong_topic", "id_reused", "rate_limited", "busy", "camera_ended", "camera_paused", "camera_silent", "picture_unusable",
    "invalid_configuration", "not_kept", "stopping", "internal",
]  # fmt: skip


class Refusal(Exception):
    """A command that is not obeyed. The text goes into the answer: what is wrong, and what to do."""

    def __init__(self, code: Code, message: str, *, id: str | None = None, name: str | None = None) -> None:  # noqa: A002 - the key's name
        super().__init__(message)
        self.code: Code = code
        self.id, self.name = id, name


def _name_of_asker(value: str) -> str:
    if not value.isprintable() or not value.strip():
        raise ValueError("must be printable characters")
    return value


Duration = Annotated[float, Field(gt=0, le=LONGEST_DURATION_S, allow_inf_nan=False), BeforeValidator(not_bool)]
Id = Annotated[str, Field(min_length=1, max_length=LONGEST_ID), AfterValidator(_name_of_asker)]


class Arguments(BaseModel):
    """The arguments of a command: unknown ones are refused, and types are those of JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


class NoArguments(Arguments):
    """None."""


class HaltArguments(Arguments):
    """Of pause and mute."""

    duration_s: Duration | None = None
    """After so long it ends by itself. Absent: until it is taken back."""
    keep: bool = False
    """It holds after a restart of the agent too; not together with duration_s."""


class SnapshotArguments(Arguments):
    """Of snapshot."""

    max_width: Annotated[int, Field(ge=16, le=8192), BeforeValidator(not_bool)] = 1280
    """Pixels; a wider picture is made smaller."""
    max_bytes: Annotated[int, Field(ge=2048, le=4 * 1024 * 1024), BeforeValidator(not_bool)] = 256 * 1024
    """Of the JPEG: it is made coarser, and then smaller, until it fits."""
    within_s: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False), BeforeValidator(not_bool)] = 5.0
    """How long to wait for the camera's next picture."""


class SetArguments(Arguments):
    """Of set. What is absent stays; null goes back to what agent.toml says."""

    confidence: Share | None = None
    """As in agent.toml."""
    max_fps: Rate | None = None
    """As in agent.toml."""
    keep: bool = False
    """It holds after a restart of the agent too."""


ARGUMENTS: Mapping[CommandName, type[Arguments]] = {
    "pause": HaltArguments,
    "resume": NoArguments,
    "mute": HaltArguments,
    "unmute": NoArguments,
    "snapshot": SnapshotArguments,
    "set": SetArguments,
    "reload": NoArguments,
    "report": NoArguments,
}


@dataclass(frozen=True)
class Command:
    """One that can be obeyed, as far as its own words tell."""

    id: str
    name: CommandName
    arguments: Arguments


def parse(payload: bytes) -> Command:
    """Read a command. Raises Refusal, which has the id and the name where those could be read."""
    content = _content(payload)
    given = content.get("id")
    try:
        command_id = _ID.validate_python(given, strict=True)
    except ValidationError:
        raise Refusal("invalid", f"id: must be a text of 1 to {LONGEST_ID} printable characters, a new one for each command") from None
    name = _known_name(content.get("name"), command_id)
    unknown = content.keys() - {"id", "name", "arguments"}
    if unknown:
        message = f"unknown key {shown(min(unknown))}: a command has id, name and arguments"
        raise Refusal("invalid", message, id=command_id, name=name)
    arguments = content.get("arguments", {})
    if not isinstance(arguments, dict):
        raise Refusal("invalid", 'arguments: must be an object such as {"duration_s": 60}', id=command_id, name=name)
    return Command(command_id, name, _arguments(arguments, command_id, name))


def _content(payload: bytes) -> dict[str, Any]:
    if len(payload) > LARGEST:
        raise Refusal("too_large", f"a command has at most {LARGEST} bytes")
    if not payload.strip():
        raise Refusal("not_json", 'empty; send an object such as {"id": "1", "name": "report"}')
    try:
        content = json.loads(payload.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_without_twins)
    except RecursionError:
        raise Refusal("too_deep", f"a command has at most {DEEPEST} levels of objects and arrays") from None
    except UnicodeDecodeError:
        raise Refusal("not_json", "not UTF-8") from None
    except _Unwanted as error:
        raise Refusal("not_json", str(error)) from None
    except ValueError as error:  # no number of more digits than Python reads, either
        where = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        raise Refusal("not_json", f"not valid JSON{where}") from None
    _look_through(content)
    if not isinstance(content, dict):
        raise Refusal("invalid", 'must be an object such as {"id": "1", "name": "report"}')
    return content


class _Unwanted(ValueError):
    """What Python's parser takes and JSON does not, or leaves open."""


def _no_constant(word: str) -> float:
    raise _Unwanted(f"{word} is no JSON")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise _Unwanted("a key stands twice in one object")
    return content


def _look_through(content: Any) -> None:
    """Refuses what is nested too deeply, and text that is no text: halves of surrogate pairs, which UTF-8 cannot hold."""
    level: list[Any] = [content]
    for _ in range(DEEPEST + 1):
        texts = [part for part in level if isinstance(part, str)]
        inside = [part for part in level if isinstance(part, (dict, list))]
        texts += [key for part in inside if isinstance(part, dict) for key in part]
        if any(max(text, default="") >= "\ud800" and _is_broken(text) for text in texts):
            raise Refusal("not_json", "a text holds half of a surrogate pair")
        level = [item for part in inside for item in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return
    raise Refusal("too_deep", f"a command has at most {DEEPEST} levels of objects and arrays")


def _is_broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


_ID: TypeAdapter[str] = TypeAdapter(Id)


def _known_name(given: Any, command_id: str) -> CommandName:
    names: Mapping[str, CommandName] = {name: name for name in ARGUMENTS}
    if isinstance(given, str) and given in names:
        return names[given]
    if not isinstance(given, str):
        raise Refusal("unknown_name", f"name: must be one of {', '.join(names)}", id=command_id)
    close = difflib.get_close_matches(given[:_SHOWN], names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise Refusal("unknown_name", f"there is no command {shown(given)}, only {', '.join(names)}{hint}", id=command_id)


def _arguments(given: Mapping[str, Any], command_id: str, name: CommandName) -> Arguments:
    model = ARGUMENTS[name]
    fields = list(model.model_fields)
    unknown = given.keys() - set(fields)
    if unknown:
        wanted = f"it takes {', '.join(fields)}" if fields else "it takes none"
        raise Refusal("unknown_argument", f"{name} has no argument {shown(min(unknown))}; {wanted}", id=command_id, name=name)
    try:
        arguments = model.model_validate(given)
    except ValidationError as error:
        problems = "; ".join(_problem(each["loc"], each["msg"]) for each in error.errors(include_input=False, include_url=False)[:3])
        raise Refusal("invalid_argument", problems, id=command_id, name=name) from None
    problem = _contradiction(arguments)
    if problem:
        raise Refusal("invalid_argument", problem, id=command_id, name=name)
    return arguments


def _contradiction(arguments: Arguments) -> str | None:
    if isinstance(arguments, HaltArguments) and arguments.keep and arguments.duration_s is not None:
        return "keep: what ends by itself is not kept; leave out keep or duration_s"
    if isinstance(arguments, SetArguments) and not arguments.model_fields_set - {"keep"}:
        return 'nothing to set: give confidence or max_fps, such as {"max_fps": 5}, or null for what agent.toml says'
    return None


def _problem(location: Iterable[Any], message: str) -> str:
    key = next((str(part) for part in location if isinstance(part, str)), "")
    return f"{key}: {message[0].lower()}{message[1:].removeprefix('alue error, ')}"


def shown(text: str) -> str:
    """A text of a stranger's, as it may stand in an answer or a log: short, quoted, on one line."""
    return ascii(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


# -- answers ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HaltResult:
    """Of pause, resume, mute and unmute."""

    cameras: Annotated[list[str], Field(description="those that it is true of now")]
    ended: Annotated[list[str], Field(description="those that have ended, and of which it cannot be true")]
    until: Annotated[Timestamp | None, Field(description="when it ends by itself")] = None


@dataclass(frozen=True, slots=True)
class Picture:
    """One snapshot."""

    frame_id: int
    captured_at: Timestamp
    width: Annotated[int, Field(description="of the JPEG")]
    height: Annotated[int, Field(description="of the JPEG")]
    source_width: int
    source_height: int
    bytes: int
    sha256: Annotated[str, Field(description="of the JPEG, to tell it from others on the topic")]


@dataclass(frozen=True, slots=True)
class SnapshotResult:
    """Of snapshot: what went to the snapshot topic of each camera."""

    pictures: dict[str, Picture]
    failed: Annotated[dict[str, ErrorInfo], Field(description="cameras of which there is none")]


@dataclass(frozen=True, slots=True)
class InForce:
    """What a camera goes by."""

    confidence: float
    max_fps: float | None


@dataclass(frozen=True, slots=True)
class SetResult:
    """Of set."""

    settings: Annotated[dict[str, InForce], Field(description="what each camera goes by now")]


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """Of reload. Keys are those of agent.toml; a camera's begin with its id."""

    applied: Annotated[list[str], Field(description="what is different now")]
    needs_restart: Annotated[list[str], Field(description="what differs in the file and only counts after a restart")]


_AS_IN_HEALTH = {"type": ["object", "null"], "description": "as in the heartbeat, see its schema"}


@dataclass(frozen=True, slots=True)
class ReportResult:
    """Of report: the heartbeat, or a camera's part of it."""

    health: Annotated[HealthEvent | None, WithJsonSchema(_AS_IN_HEALTH)] = None
    camera: Annotated[CameraHealth | None, WithJsonSchema(_AS_IN_HEALTH)] = None


Result = HaltResult | SnapshotResult | SetResult | ReloadResult | ReportResult


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The answer to a command. Topic: command/result of the device or camera, and MQTT 5's response topic if one was given."""

    device: str
    camera: Annotated[str | None, Field(description="which it was for; null: the device, or a camera that does not exist")]
    id: Annotated[str | None, Field(description="of the command; null where it could not be read")]
    name: str | None
    ok: bool
    at: Timestamp
    error: Annotated[ErrorInfo | None, Field(description="why it was not obeyed, and what to do")] = None
    result: Result | None = None
    survives_restart: Annotated[
        bool | None, Field(description="whether what was changed holds after a restart of the agent; null: nothing was changed")
    ] = None
    replayed: Annotated[bool, Field(description="an answer of before: a command with this id was obeyed already")] = False
    problems: Annotated[list[str], Field(description="of reload: everything that is wrong with the file")] = field(default_factory=list)
    schema: Literal["edge_agent.command_result/1"] = "edge_agent.command_result/1"


_RESULT: TypeAdapter[CommandResult] = TypeAdapter(CommandResult)


def encode(answer: CommandResult, reply_to: ReplyTo | None) -> Message:
    """The answer as it goes over the wire."""
    return Message(Kind.COMMAND_RESULT, answer.camera, _RESULT.dump_json(answer, warnings=False), reply_to=reply_to)


def schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema of ``command`` and of ``command_result``."""
    found = {"command": _command_schema(), "command_result": _RESULT.json_schema(mode="serialization")}
    for name, schema in found.items():
        schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
        schema["$id"] = f"urn:edge_agent:{name}:1"
    result: dict[str, dict[str, Any]] = json.loads(json.dumps(found))
    return result


def _command_schema() -> dict[str, Any]:
    choices = []
    for name, model in ARGUMENTS.items():
        arguments = model.model_json_schema()
        properties = {"id": _ID.json_schema(), "name": {"const": name}, "arguments": arguments}
        choices.append({"type": "object", "properties": properties, "required": ["id", "name"], "additionalProperties": False})
    return {
        "title": "Command",
        "description": "Topic: <base>/<device>/command or <base>/<device>/camera/<camera>/command. Not retained.",
        "oneOf": choices,
    }
