"""``edge-agent demo``."""

from __future__ import annotations

import signal
from typing import NoReturn

import click

from edge_agent.cli_common import echo, leave


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after so long. Default: until Ctrl-C.")
@click.option("--source", metavar="SOURCE", help='Your own camera or video: "/dev/video0", "rtsp://...", "clip.mp4", "synthetic".')
@click.option("--model", metavar="FILE", help="Your own .onnx or .tflite. Default: the built-in detector.")
@click.option("--broker", metavar="HOST[:PORT]", help="Publish to this broker. Default: one inside this process.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of text.")
@click.option("-v", "--verbose", is_flag=True, help="Show the agent's own log too.")
def demo(seconds: float | None, source: str | None, model: str | None, broker: str | None, as_json: bool, verbose: bool) -> None:
    """See it work: real detections of a real model, through a real MQTT connection, on a clip or on your own camera."""
    import contextlib
    import secrets
    import tempfile

    from edge_agent import config_file, logs, plugins, running
    from edge_agent import demo as demo_module
    from edge_agent.watch import Watch, WatchOptions

    def terminated(*_: object) -> NoReturn:
        raise SystemExit(0)  # so that what the stack holds is cleaned up; once the agent runs, it takes SIGTERM itself

    signal.signal(signal.SIGTERM, terminated)
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-agent-demo-"))
        if broker is None:
            host, port, protocol, device = "127.0.0.1", stack.enter_context(demo_module.embedded_broker()), "3.1.1", "demo"
        else:
            (host, port), protocol, device = host_port(broker), "5", f"demo-{secrets.token_hex(4)}"
        tables = demo_module.tables(source, model, (host, port, protocol), device, state)
        config = config_file.build(tables, plugins.PluginKinds(), environ={})
        logs.setup("info" if verbose else "error", "text")
        watch = Watch(WatchOptions(host=host, port=port, device=device, as_json=as_json), echo)
        watch.start()
        if not as_json:
            click.echo(f"# broker {host}:{port}, topics edge/{device}/#; stop with Ctrl-C", err=True)
        code = running.run(config, seconds=seconds)
        watch.stop()
        messages = watch.messages
    if not as_json:
        click.echo(f"# {messages} messages received", err=True)
    leave(code)


def host_port(text: str) -> tuple[str, int]:
    """Of ``HOST`` or ``HOST:PORT``. Raises UsageError."""
    host, _, port = text.rpartition(":") if text.count(":") == 1 else (text, "", "1883")
    if not port.isdecimal() or not host or not 0 < int(port) < 65536:
        raise click.UsageError(f"--broker {text!r}: must be HOST or HOST:PORT, with a port from 1 to 65535")
    return host, int(port)
