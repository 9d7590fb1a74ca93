"""The command `flops`: finds the sub-commands of the parts that are installed, and reports errors.

Sub-commands come from entry points. A command's module imports nothing heavy at its top, so that
`flops --help` answers at once; what a command needs it imports when it runs.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import signal
import sys
import threading
import time
import traceback
from typing import Any

import click

from fl import __version__
from fl.errors import FlopsError, interruption, unknown
from fl.leaving import leave

INTERRUPTED = 130
"""The exit code after Ctrl-C: 128 + SIGINT, as shells count."""

TERMINATED = 143
"""The exit code after SIGTERM: 128 + SIGTERM."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, handled like Ctrl-C: what is under way is cleaned up before the process ends."""


_GROUPS = {"flops.commands": (), "flops.research": ("server", "client")}
"""Entry-point groups, with the packages that a group needs besides the one that holds the command."""

_BRINGING = ("server", "client", "pipeline")
"""The packages that bring libraries of their own, as parts of the same names."""

_META = "flops.entry_points"


def installed(package: str) -> bool:
    """Tell whether a package can be imported here."""
    return importlib.util.find_spec(package) is not None


def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    found = {}
    for group, needs in _GROUPS.items():
        for entry in importlib.metadata.entry_points(group=group):
            if all(installed(package) for package in (*needs, entry.module.partition(".")[0])):
                found[entry.name] = entry
    return found


class _Parts(click.Group):
    """A group whose commands are the entry points of the installed parts."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._found(ctx))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self._found(ctx).get(cmd_name)
        if entry is None:
            return None
        command: click.Command = entry.load()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self._found(ctx):
            raise unknown("command", args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    @staticmethod
    def _found(ctx: click.Context) -> dict[str, importlib.metadata.EntryPoint]:
        if _META not in ctx.meta:
            ctx.meta[_META] = _entry_points()
        found: dict[str, importlib.metadata.EntryPoint] = ctx.meta[_META]
        return found


@click.group(
    cls=_Parts,
    epilog="Example: flops tasks. The --help of each command has examples of its own.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--debug", is_flag=True, help="Show tracebacks and the libraries' logs.")
@click.version_option(__version__, prog_name="flops")
@click.pass_context
def flops(context: click.Context, debug: bool) -> None:
    """Federated learning for hospitals, with the release pipeline built in."""
    context.obj = {"debug": debug, "arguments": [], **(context.obj or {})}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 is success, 1 a failure, 2 the user's mistake, 130 an interruption. A mistake or a failure is one line
    on standard error; a traceback shows with ``--debug`` alone.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    # --debug counts wherever it stands before a bare "--": people add it to the end of what just failed.
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in ours or os.environ.get("FLOPS_DEBUG", "") not in ("", "0")
    if "--debug" in ours:
        arguments.remove("--debug")
    before = _listen()
    try:
        result = flops.main(
            arguments,
            prog_name="flops",
            standalone_mode=False,
            obj={"debug": debug, "arguments": tuple(arguments)},
        )
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        return _failed(" ".join(error.format_message().split()), error.exit_code, debug)
    except FlopsError as error:
        return _failed(str(error), error.exit_code, debug)
    except (click.Abort, KeyboardInterrupt) as error:  # click turns the second into the first.
        return _interrupted(error)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        if library in ("fl", *_BRINGING):
            return _failed(f"{error} (a bug; --debug shows where)", 1, debug)
        part = _part_of(error)
        where = "" if part else f", where PART is {', '.join(_BRINGING)} or research"
        return _failed(
            f"the library '{library}' is not installed; pip install '.[{part or 'PART'}]' in the source's folder "
            f"brings it{where}",
            2,
            debug,
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if interruption(error) is not None:
            return _interrupted(error)
        return _failed(f"{type(error).__name__}: {error} (a bug; --debug shows where)", 1, debug)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def entry() -> None:
    """Run the command line as a process of its own."""
    code = main()
    others = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    if code in (INTERRUPTED, TERMINATED) and others:
        # Flower's simulation leaves threads that wait for ever once it is interrupted; all is cleaned up by now.
        leave(code)
    sys.exit(code)


_ONCE_SECONDS = 2.0
"""Within so long a second signal is the same wish: Ctrl-C goes to all processes of a terminal, and whoever started
this one may pass it on. Raised while the first is being handled it would break what cleans up."""


def _listen() -> dict[int, Any]:
    """Let SIGTERM, SIGHUP and Ctrl-C interrupt; returns what they did before. Only a process's main thread can."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    heard = -_ONCE_SECONDS

    def interrupt(number: int, _: object) -> None:
        nonlocal heard
        now = time.monotonic()
        if now - heard >= _ONCE_SECONDS:
            heard = now
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    before: dict[int, Any] = {signal.SIGTERM: signal.signal(signal.SIGTERM, interrupt) or signal.SIG_DFL}
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # A terminal that is gone; nohup wants it ignored.
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # Else somebody wants it otherwise.
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    return before


def _part_of(error: BaseException) -> str | None:
    """Return the part whose command failed; None where it was none of those that bring libraries."""
    research = {entry.module for entry in importlib.metadata.entry_points(group="flops.research")}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = str(frame.f_globals.get("__name__"))
        if module in research:
            return "research"
        if (package := module.partition(".")[0]) in _BRINGING:
            return package
    return None


def _interrupted(error: BaseException) -> int:
    cause = interruption(error) or error
    word, code = ("terminated", TERMINATED) if isinstance(cause, Terminated) else ("interrupted", INTERRUPTED)
    return _failed("; ".join([word, *getattr(cause, "__notes__", [])]), code, debug=False)


def _failed(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"flops: {' '.join(message.split())}", err=True)
    return code


if __name__ == "__main__":
    entry()
