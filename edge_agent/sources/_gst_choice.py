"""Which decoder a GStreamer source tries, which one failed and why, and which one is live in the end."""

from __future__ import annotations

from typing import Any

from edge_agent.errors import SourceErrorCode, SourceUnavailable
from edge_agent.sources._decoders import Candidate, Decode, Plan
from edge_agent.sources._gst_decoders import CODECS, Sizes, live_decoders, plan, wiring
from edge_agent.sources._gst_errors import Fault
from edge_agent.sources._gst_pipeline import DECODER, has_property
from edge_agent.sources._platform import platform

_SILENCES = 2
"""A hardware decoder that lets an open time out so often in a row is taken for broken."""


class DecoderChoice:
    """Lives as long as its source: a decoder that failed is not tried again before the agent starts again."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._failed: dict[str, str] = {}
        self._silences: dict[str, int] = {}
        self._plan = Plan(())
        self._wired: Candidate | None = None
        self.resizes = False
        """The decoder that is wired makes pictures smaller than they came."""

    def begin(self) -> None:
        """A pipeline is about to be started; until a stream turns up, nothing is known."""
        self._plan, self._wired, self.resizes = Plan((), "the pipeline says so"), None, False

    def wire(self, gst: Any, form: str, sizes: Sizes, sink: str) -> str:
        """The description of what decodes a stream of the format ``form`` into ``sink``. Raises SourceUnavailable."""
        codec = CODECS.get(form)
        if form == "video/x-raw":
            return f"videoconvert ! {sink}"
        if codec is None:  # what no hardware here knows; GStreamer finds something
            self._wired = Candidate("decodebin", hardware=False, engine="gstreamer")
            self._plan = Plan([self._wired], f"no hardware decoder is known for {form}")
            return f"decodebin ! videoconvert ! {sink}"
        self._plan = plan(codec, self._decode, platform(), lambda element: gst.ElementFactory.find(element) is not None)
        self._wired = candidate = self._choose(form)
        self.resizes = candidate.hardware and sizes.scaled is not None
        return wiring(codec, candidate, sizes, lambda element, key: has_property(gst, element, key), sink)

    def _choose(self, form: str) -> Candidate:
        for candidate in self._plan.candidates:
            if candidate.name not in self._failed:
                return candidate
        why = self._reasons() or "apt install gstreamer1.0-libav gstreamer1.0-plugins-bad"
        refused = 'decode = "hardware": ' if self._decode == "hardware" else ""
        raise SourceUnavailable(f"{refused}no decoder for {form}: {why}", SourceErrorCode.CODEC_UNSUPPORTED)

    def _reasons(self) -> str:
        failed = [f"{name}: {reason}" for name, reason in self._failed.items()]
        return "; ".join([*failed, *([self._plan.reason] if self._plan.reason else [])])

    def works(self) -> None:
        """A picture came."""
        if self._wired is not None:
            self._silences.pop(self._wired.name, None)

    def was_silent(self) -> None:
        """No picture came in time."""
        wired = self._wired
        if wired is None or not wired.hardware:
            return
        self._silences[wired.name] = self._silences.get(wired.name, 0) + 1
        if self._silences[wired.name] >= _SILENCES:
            self._failed[wired.name] = f"gave no picture, {_SILENCES} times"

    def gives_up(self, fault: Fault) -> bool:
        """Whether the decoder failed, and another one is worth a try now."""
        wired = self._wired
        if wired is None or f":{DECODER}" not in fault.element:
            return False
        self._failed[wired.name] = fault.reason
        return any(candidate.name not in self._failed for candidate in self._plan.candidates)

    def blamed(self, fault: Fault) -> Fault:
        """The fault, as that of a decoder in hardware if it was one's and no other may be tried."""
        wired = self._wired
        if wired is None or not wired.hardware or f":{DECODER}" not in fault.element:
            return fault
        return Fault(SourceErrorCode.CODEC_UNSUPPORTED, f'decode = "{self._decode}": {wired.name}: {fault.reason}', fault.element)

    def found(self, gst: Any, pipeline: Any, form: str) -> tuple[str, bool, str]:
        """What decodes, looked up in the pipeline that plays; whether that is hardware; and if not, why.

        ``form`` is what reaches the appsink. No reason and no hardware: nothing is decoded. Raises SourceUnavailable where
        only hardware is allowed and it is not.
        """
        live = live_decoders(gst, pipeline)
        if not live and form != "JPEG":
            return f"none ({form})", False, ""
        shown = ", ".join(decoder.shown() for decoder in live) or "jpeg (libjpeg-turbo, software)"
        if live and all(decoder.hardware for decoder in live):
            return shown, True, ""
        if self._decode == "hardware":
            raise SourceUnavailable(f'decode = "hardware", but what decodes is {shown}', SourceErrorCode.CODEC_UNSUPPORTED)
        return shown, False, self._reasons() or "no other was tried"
