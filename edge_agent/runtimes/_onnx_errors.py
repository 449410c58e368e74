"""What ONNX Runtime says of a file that it refuses, in words for the person who gave it."""

from __future__ import annotations

import re

from edge_agent.runtimes.base import FileFacts

_LONGEST_REASON = 300


def refusal_reason(error: Exception, facts: FileFacts | None) -> str:
    """Why a file is not loaded, and where that is known what to do."""
    if facts is not None and facts.custom_operators:
        return f"it has operators of its own: {', '.join(facts.custom_operators)}; export it without them"
    text = first_line(error)
    known = re.search(r"domain ai.onnx is till opset (\d+)", str(error))
    if facts is not None and known:
        return f"it needs {facts.opset}, and this version knows up to {known[1]}; export it with a lower opset, or update onnxruntime"
    return text


def first_line(error: Exception) -> str:
    """The library's reason, without where in its own source it was found."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", lines[0])
    text = re.sub(r"\S*\.(?:cc|h|cpp):\d+ .*?\) (?=[A-Z])", "", text)
    text = re.sub(r"^Load model from .*? (?:failed: ?)?(?=[A-Z])", "", text)
    return text[:_LONGEST_REASON]
