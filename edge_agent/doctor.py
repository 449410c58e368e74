"""``edge-agent doctor``: what is installed, found, missing or slow on this machine, each with the line that mends it.

It changes nothing, opens no camera's stream and publishes nothing. Each look is a function in ``doctor_software.py``,
``doctor_machine.py`` or ``doctor_service.py`` that yields findings; one that fails is a finding, too, and hides no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_agent import doctor_machine, doctor_service, doctor_software
from edge_agent.doctor_finding import Finding

Part = Literal["software", "machine", "service"]


@dataclass(frozen=True)
class Examination:
    """A look, and what it is at."""

    part: Part
    look: Callable[[], Iterable[Finding]]


def examinations(config_file: Path | None, root: Path = Path("/")) -> list[Examination]:
    """All of them, in the order in which one mends things."""
    configured = doctor_service.Configured.read(config_file)
    return [
        Examination("software", doctor_software.python),
        Examination("software", doctor_software.libraries),
        Examination("software", doctor_software.runtimes),
        Examination("software", doctor_software.decoding),
        Examination("machine", lambda: doctor_machine.board(root)),
        Examination("machine", lambda: doctor_machine.memory(root)),
        Examination("machine", lambda: doctor_machine.heat_and_power(root)),
        Examination("machine", doctor_machine.clock),
        Examination("machine", doctor_machine.cameras),
        Examination("service", configured.findings),
        Examination("service", lambda: doctor_service.unit(root)),
        Examination("service", lambda: doctor_service.secrets(configured)),
        Examination("service", lambda: doctor_service.disk(configured)),
        Examination("service", lambda: doctor_service.broker(configured)),
        Examination("service", lambda: doctor_service.agent(configured)),
    ]


def examine(looks: Iterable[Examination]) -> Iterator[tuple[Part, Finding]]:
    """What is found, as it is found."""
    for each in looks:
        try:
            for finding in each.look():
                yield each.part, finding
        except Exception as error:  # a broken machine is just what this is for
            yield each.part, Finding("wrong", each.part, f"a look at it failed: {type(error).__name__}: {error}")
