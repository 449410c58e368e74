"""agent.toml.example: the copy in the repository is the generated one, and each of its keys can be used as it stands."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import config_file, example, plugins
from edge_agent.config import Settings
from edge_agent.config_camera import CameraSettings
from edge_agent.config_delivery import MqttSettings
from edge_agent.config_report import table_in
from tests.conftest import REPOSITORY, make_config

TEXT = example.generate()
KEY = re.compile(r"#(\w+ = |\[)")
OTHERWISE = {"interval_s = 60  # not set by default"}
"""Another way to say what a key before it says."""
SECTION = re.compile(r"^# Only for (?:kind )?(\w+)", re.MULTILINE)


def uncommented(text: str, only: str | None = None) -> str:
    """The example with every key set; of the blocks "Only for KIND" the one of that kind, or none."""
    kept, kind = [], ""
    for line in text.splitlines():
        found = SECTION.match(line)
        if found:
            kind = found[1]
        elif not line.strip() or line.startswith("["):
            kind = ""
        if not kind or kind == only:
            kept.append(line[1:] if KEY.match(line) else line)
    return "\n".join(line for line in kept if line not in OTHERWISE) + "\n"


def without(text: str, *keys: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith(tuple(f"{key} = " for key in keys))) + "\n"


def test_the_copy_in_the_repository_is_the_generated_one() -> None:
    committed = (REPOSITORY / "agent.toml.example").read_text("utf-8")
    assert committed == TEXT, "write it anew with: edge-agent example > agent.toml.example"


def test_as_it_stands_it_is_valid_and_is_the_defaults() -> None:
    config = make_config(config_file.parse(TEXT, "example"))
    assert config.settings == make_config({"cameras": [{"id": "front", "source": "synthetic"}]}).settings


@pytest.mark.parametrize("kind", plugins.names("sources"))
def test_every_key_of_a_camera_of_each_kind_can_be_uncommented(kind: str) -> None:
    text = without(uncommented(TEXT, kind), "kind").replace('\nid = "front"\n', f'\nid = "front"\nkind = "{kind}"\n')
    config = make_config(config_file.parse(text, "example"))
    camera = config.cameras[0]
    assert camera.kind == kind
    assert camera.options.model_fields_set == set(type(camera.options).model_fields)
    assert camera.settings.model_fields_set >= set(CameraSettings.model_fields) - {"interval_s"}


@pytest.mark.parametrize("runtime", plugins.names("runtimes"))
def test_every_key_of_the_model_of_each_runtime_can_be_uncommented(runtime: str) -> None:
    text = uncommented(without(TEXT, "#kind", "#runtime"), runtime).replace("\n[model]\n", f'\n[model]\nruntime = "{runtime}"\n')
    config = make_config(config_file.parse(text, "example"))
    assert config.runtime == runtime
    assert config.runtime_options.model_fields_set == set(type(config.runtime_options).model_fields)


def test_every_key_of_every_table_is_there_with_its_default_and_a_comment_before_it() -> None:
    everything = config_file.parse(without(uncommented(TEXT), "kind"), "example")
    assert set(everything.pop("models")["faces"]) == {"path"}, "the keys are those of [model]"
    for name, table in Settings.model_fields.items():
        if name == "models":
            continue
        model = CameraSettings if name == "cameras" else table_in(table.annotation)
        assert model is not None
        written: dict[str, Any] = everything[name][0] if name == "cameras" else everything[name]
        assert set(written) == set(model.model_fields) - ({"kind", "interval_s"} if name == "cameras" else set())
        for key, field in model.model_fields.items():
            if key in written and field.default is not None and not field.is_required() and table_in(field.annotation) is None:
                assert written[key] == (list(field.default) if isinstance(field.default, tuple) else field.default)
    assert everything["mqtt"]["tls"].keys() == (table_in(MqttSettings.model_fields["tls"].annotation) or Settings).model_fields.keys()
    lines = TEXT.splitlines()
    keys = [index for index, line in enumerate(lines) if re.match(r"#?\w+ = ", line)]
    assert all(lines[index - 1].startswith("# ") for index in keys)
    assert {match[1] for match in SECTION.finditer(TEXT)} == {*plugins.names("sources"), *plugins.names("runtimes")}


@given(
    st.recursive(
        st.booleans()
        | st.integers(-(2**63), 2**63 - 1)
        | st.floats(allow_infinity=False, allow_nan=False)
        | st.text(st.characters(codec="utf-8", exclude_characters="\x7f")),
        st.lists,
        max_leaves=8,
    )
)
def test_values_are_written_as_toml_reads_them(value: Any) -> None:
    read = config_file.parse(f"key = {example.toml(value)}\n", "test")["key"]
    assert read == value or (isinstance(value, float) and math.isclose(read, value))
