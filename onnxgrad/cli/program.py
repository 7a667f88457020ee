"""The command ``onnxgrad``, and what its subcommands share: messages and exit codes.

Exit codes: 0 (fine), 1 (``check``, ``compare`` or ``verify`` found a difference), 2 (usage error, or an error that
onnxgrad raises on purpose).
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import onnxgrad
from onnxgrad.cli.augment import augment
from onnxgrad.cli.check import check
from onnxgrad.cli.compare import compare_command
from onnxgrad.cli.fix import fix
from onnxgrad.cli.import_ import import_
from onnxgrad.cli.inspect import inspect
from onnxgrad.cli.lower import lower
from onnxgrad.cli.ops import ops
from onnxgrad.cli.output import print_text, say
from onnxgrad.cli.record import record
from onnxgrad.cli.requests import CommandWithDerivatives
from onnxgrad.cli.run import run
from onnxgrad.cli.sensitivity import sensitivity
from onnxgrad.cli.verify import verify
from onnxgrad.errors import OnnxgradError


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Run the subcommand; print warnings and errors as messages."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("always", UserWarning)
                warnings.showwarning = lambda message, *_, **__: say("warning", "bold yellow", str(message))
                return super().invoke(ctx)
        except OnnxgradError as error:
            say("error", "bold red", str(error))
            raise typer.Exit(2) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print_text(f"onnxgrad {onnxgrad.__version__}")
        raise typer.Exit


@app.callback()
def _onnxgrad(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Give a trained network in ONNX its exact derivatives: they become further outputs of the same model."""


app.command()(inspect)
app.command(cls=CommandWithDerivatives)(augment)
app.command(cls=CommandWithDerivatives)(run)
app.command()(check)
app.command("compare")(compare_command)
app.command()(record)
app.command()(verify)
app.command()(sensitivity)
app.command()(fix)
app.command()(lower)
app.command("import")(import_)
app.command()(ops)


def main() -> None:
    """Run the command line."""
    app(prog_name="onnxgrad")
