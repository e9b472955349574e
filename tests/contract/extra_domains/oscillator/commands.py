"""Commands of a detector that the project does not know."""

from __future__ import annotations

import typer

app = typer.Typer()


@app.callback()
def _root() -> None:
    pass


@app.command()
def period(frequency: float) -> None:
    """Print the period of an oscillator.

    Example: trackkeras oscillator period 2
    """
    print(1 / frequency)
