"""The command lines of record, replay and shadow. Imports what a command needs when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

Commands = Any
"""What argparse's ``add_subparsers`` returns has no public name."""


def add_commands(commands: Commands) -> None:
    """Add the three commands to the program's."""
    _add_record(commands)
    _add_replay(commands)
    _add_shadow(commands)


def _add_record(commands: Commands) -> None:
    record = commands.add_parser(
        "record",
        help="record a live broker into a trace",
        description="Tap the broker at KZPARK_AMQP_URL, disturbing nobody, into a trace "
        "of JSON lines on stdout or in FILE, until SIGINT or SIGTERM. It holds callers' names "
        "and numbers unless --redact is given.",
    )
    record.add_argument("--out", type=Path, metavar="FILE", help="write here, not to stdout")
    record.add_argument(
        "--account", action="append", default=[], metavar="ID", help="only this account's calls"
    )
    record.add_argument(
        "--call-id", action="append", default=[], metavar="ID", help="only this call"
    )
    record.add_argument(
        "--redact", action="store_true", help="pseudonyms for numbers and names; still replays"
    )
    record.add_argument(
        "--routes",
        action="store_true",
        help="also how calls are routed and what Kazoo's own park module says, for shadow",
    )
    record.add_argument("--seconds", type=_positive, metavar="N", help="end after so long")
    record.add_argument("--max", type=_count, metavar="N", help="end after so many messages")
    record.set_defaults(command=_record)


def _add_replay(commands: Commands) -> None:
    replay = commands.add_parser(
        "replay",
        help="replay traces and compare",
        description="Feed each trace to the parking core under a virtual clock and compare every "
        "effect with what the trace holds. Exit 0 equal, 1 different, 2 not a trace.",
    )
    replay.add_argument("traces", metavar="TRACE", nargs="+", type=Path, help="a trace or journal")
    replay.add_argument(
        "--update", action="store_true", help="rewrite each trace to hold what replay says"
    )
    _add_settings(replay)
    replay.set_defaults(command=_replay)


def _add_shadow(commands: Commands) -> None:
    shadow = commands.add_parser(
        "shadow",
        help="compare with what Kazoo's own park module does",
        description="Watch a cluster in which Kazoo's own module parks, predict what this worker "
        "would do with the same events, and report disagreements. Publishes nothing. Exit 0 when "
        "docs/compatibility.md explains every disagreement, else 1.",
    )
    shadow.add_argument(
        "--callflows",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="callflow documents (a file or folder): the nodes' data is not on the wire",
    )
    shadow.add_argument(
        "--golden",
        nargs="+",
        default=[],
        type=Path,
        metavar="FILE",
        help="recordings (or folders of them) of the platform's module, not a live broker",
    )
    shadow.add_argument(
        "--from",
        dest="traces",
        nargs="+",
        default=[],
        type=Path,
        metavar="TRACE",
        help="traces of `record --routes` instead of a live broker",
    )
    shadow.add_argument("--seconds", type=_positive, metavar="N", help="end after so long")
    shadow.add_argument("--format", choices=("text", "json"), default="text")
    shadow.add_argument("--compat", choices=("fixed", "strict"), help="predict in this mode")
    shadow.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the prediction, such as ringback_timeout_ms=5000",
    )
    shadow.set_defaults(command=_shadow)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compat", choices=("fixed", "strict"), help="instead of what the trace says"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting instead of what the trace says, such as ringback_timeout_ms=5000",
    )
    parser.add_argument(
        "--tolerance",
        type=_count,
        default=250,
        metavar="MS",
        help="how much later than its cause an effect may come (default: 250)",
    )


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


_positive.__name__ = "number"
_count.__name__ = "whole number"


def _record(arguments: argparse.Namespace) -> int:
    from worker.settings import read_settings
    from worker.trace.commands import RecordOptions, run_record

    options = RecordOptions(
        out=arguments.out,
        accounts=tuple(arguments.account),
        call_ids=tuple(arguments.call_id),
        routes=arguments.routes,
        redact=arguments.redact,
        seconds=arguments.seconds,
        most=arguments.max,
    )
    return run_record(read_settings(), options)


def _replay(arguments: argparse.Namespace) -> int:
    from worker.trace.commands import ReplayOptions, run_replay

    options = ReplayOptions(
        paths=tuple(arguments.traces),
        settings=settings_of(arguments),
        tolerance_ms=arguments.tolerance,
        update=arguments.update,
    )
    return run_replay(options)


def settings_of(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The ``NAME=VALUE`` pairs, --compat among them."""
    compat = [f"compat={arguments.compat}"] if arguments.compat else []
    return (*arguments.set, *compat)


def _shadow(arguments: argparse.Namespace) -> int:
    from worker.settings import read_settings
    from worker.trace.commands import ShadowOptions, run_shadow

    options = ShadowOptions(
        callflows=tuple(arguments.callflows),
        recordings=tuple(arguments.golden),
        traces=tuple(arguments.traces),
        settings=settings_of(arguments),
        seconds=arguments.seconds,
        as_json=arguments.format == "json",
    )
    return run_shadow(read_settings, options)
