"""Commands and exit codes, nothing else.

Exit codes: 0 ok, 1 findings or different, 2 usage, 3 the broker cannot be reached, 4 the broker is
too old, 130 interrupted, 141 nobody reads the output any more. Every command's code is imported
when it runs, so that ``kzpark validate`` does not wait for the AMQP client.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence

from worker import __version__
from worker.errors import BrokerError, BrokerTooOldError, UsageError, WorkerError
from worker.trace.arguments import add_commands

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_BROKER_UNREACHABLE = 3
EXIT_BROKER_TOO_OLD = 4
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

Command = Callable[[argparse.Namespace], int]

_EXIT_CODES: tuple[tuple[type[WorkerError], int], ...] = (
    (UsageError, EXIT_USAGE),
    (BrokerTooOldError, EXIT_BROKER_TOO_OLD),
    (BrokerError, EXIT_BROKER_UNREACHABLE),
    (WorkerError, EXIT_FAILED),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. ``argv`` None: the process's own arguments."""
    try:
        arguments = _parser().parse_args(argv)
        command: Command = arguments.command
        code = command(arguments)
        sys.stdout.flush()
        return code
    except SystemExit as stop:  # argparse: 0 after --help, 2 after a usage error
        return stop.code if isinstance(stop.code, int) else EXIT_USAGE
    except WorkerError as error:
        print(f"kzpark: {error}", file=sys.stderr)
        return next(code for kind, code in _EXIT_CODES if isinstance(error, kind))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return EXIT_BROKEN_PIPE


def _discard_stdout() -> None:
    """Keep the interpreter from complaining when it flushes the broken pipe at its end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kzpark",
        description="Kazoo's park callflow action as a remote AMQP worker.",
        epilog="Settings are environment variables KZPARK_*; docs/settings.md lists them.",
    )
    parser.add_argument("--version", action="version", version=f"kzpark {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    _add_demo(commands)
    _add_validate(commands)
    add_commands(commands)
    version = commands.add_parser("version", help="print the version")
    version.set_defaults(command=_version)
    return parser


_Commands = argparse._SubParsersAction  # the type add_subparsers returns has no public name


def _add_run(commands: _Commands[argparse.ArgumentParser]) -> None:
    run = commands.add_parser(
        "run",
        help="serve park actions until SIGTERM",
        description="Serve park actions. One JSON line per event on stderr; SIGTERM or SIGINT ends "
        "it with 0 after its calls are handed over.",
    )
    run.add_argument(
        "--once",
        action="store_true",
        help="exit 3 when the broker cannot be reached at the start, instead of trying on",
    )
    run.set_defaults(command=_run)


def _add_demo(commands: _Commands[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo",
        help="park a few simulated calls and show what happens",
        description="Play parking with a simulated switch and show what goes over the wire and "
        "what each phone shows. Uses KZPARK_AMQP_URL if set, else a RabbitMQ on localhost:5672, "
        "else a private one when rabbitmq-server is installed, else none.",
    )
    demo.set_defaults(command=_demo)


def _add_validate(commands: _Commands[argparse.ArgumentParser]) -> None:
    validate = commands.add_parser(
        "validate",
        help="check callflow documents",
        description="Check park nodes in callflow documents, single nodes or bare data. Exit 0 "
        "clean, 1 findings, 2 a path that does not exist.",
    )
    validate.add_argument(
        "paths", metavar="PATH", nargs="+", help="a JSON file, a folder, or - for stdin"
    )
    validate.add_argument(
        "--format",
        choices=("text", "json", "sarif", "github"),
        default="text",
        help="how findings are written (default: text)",
    )
    validate.set_defaults(command=_validate)


def _run(arguments: argparse.Namespace) -> int:
    from worker.settings import read_settings

    settings = read_settings()
    from worker.app import run
    from worker.ops.logs import configure

    configure(level=settings.log_level, shape=settings.log_format)
    return run(settings, once=arguments.once)


def _demo(_arguments: argparse.Namespace) -> int:
    from worker.settings import read_settings

    settings = read_settings()
    from worker.app import demo

    return demo(settings)


def _validate(arguments: argparse.Namespace) -> int:
    from worker.lint.cli import run_validate

    return run_validate(arguments.paths, arguments.format)


def _version(_arguments: argparse.Namespace) -> int:
    print(f"kzpark {__version__}")
    return 0
