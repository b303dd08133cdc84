"""`tracker`, the command line: one file a command, imported when it is used, so that --help is quick.

Exit codes: 0 done (also after Ctrl-C), 1 it did not work, 2 wrong usage or settings. An error that a user can
make is one line on stderr: what is wrong and what helps.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final

import click

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "up": ("tracker.cli.up", "Start everything on this machine: Kafka, Redis, endpoint, workers."),
    "serve": ("tracker.cli.serve", "Run the endpoint."),
    "worker": ("tracker.cli.worker", "Run a stream worker; start more of them to scale."),
    "topics": ("tracker.cli.topics", "Create or check the Kafka topics."),
    "fold": ("tracker.cli.fold", "What a signal makes of the events in a file: its state and emissions, as JSON."),
    "webhooks": ("tracker.cli.webhooks", "Deliver triggers as signed webhooks; list and test the endpoints."),
    "tail": ("tracker.cli.tail", "Watch triggers, events or dead letters arrive."),
    "dead-letters": ("tracker.cli.dead_letters", "List, show and replay what could not be used."),
    "profile": (
        "tracker.cli.profile",
        "Show a profile, explain its signals; take ids off it.",
    ),
    "model": ("tracker.cli.model", "What the churn and CLV models say of one customer, as JSON."),
    "fit": ("tracker.cli.fit", "Fit the churn models' parameters to the profiles, and publish them."),
    "segments": ("tracker.cli.segments", "The segments of a site: their sizes, and who would be in a new one."),
    "demo": ("tracker.cli.demo", "Send the events of simulated shoppers through the HTTP API."),
    "snippet": ("tracker.cli.snippet", "Print the script tags for the head of your pages."),
    "doctor": ("tracker.cli.doctor", "Check versions, connections, topics and settings; says what to do."),
}
"""Command -> (module, which has a click command of that name; what it does)."""


class Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from tracker.cli.common import version

        click.echo(f"tracker {version()}")
        ctx.exit(0)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def cli() -> None:
    """Real-time event streaming tracker: events of websites, popups and messages in, triggers out.

    Settings are TRACKER_* environment variables or tracker.toml: docs/reference/settings.md.
    """


def main(args: list[str] | None = None) -> None:
    """Run a command and exit with its code."""
    sys.exit(run(args))


def run(args: list[str] | None = None) -> int:
    from tracker.contract.loading import SettingsError

    try:
        result: Any = cli.main(args, prog_name="tracker", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as e:
        click.echo(e.format_message(), err=True)
        return 2
    except click.UsageError as e:
        where = e.ctx.command_path if e.ctx else "tracker"
        return _fail(where, f"{e.format_message().rstrip('.')}; `{where} --help` tells more", 2)
    except (click.Abort, KeyboardInterrupt):
        return 0
    except SettingsError as e:
        return _fail("tracker", str(e), 2)
    except click.ClickException as e:
        return _fail("tracker", e.format_message(), e.exit_code)
    except BrokenPipeError:  # `tracker tail | head`: the reader has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _fail(where: str, message: str, code: int) -> int:
    click.echo(f"{where}: error: {' '.join(message.split())}", err=True)
    return code
