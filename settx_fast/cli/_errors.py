"""Every error of a command becomes one sentence on stderr and an exit code."""

from __future__ import annotations

from typing import Any

import typer
from rich.text import Text
from typer.core import TyperGroup

from settx_fast.cli._console import console, printable

BAD_INPUT = (ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)


class Commands(TyperGroup):
    """The group of commands; runs one and turns what it raises into an exit code (2 bad input, 1 anything else)."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the context names."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, KeyboardInterrupt):
            raise
        except Exception as error:
            is_usage = hasattr(error, "exit_code")  # the parser's own errors print themselves
            if is_usage or ctx.params.get("traceback"):
                raise
            message = Text.assemble(("Error:", "bold red"), " ", printable(explain(error)))
            console(stderr=True).print(message, soft_wrap=True, highlight=False)
            raise typer.Exit(2 if isinstance(error, BAD_INPUT) else 1) from None


def explain(error: Exception) -> str:
    """The sentence that tells the user what went wrong and, where known, what to do."""
    text = " ".join(str(error).split())
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] != "settx_fast":
        return f"{text}: install it with `pip install '.[app]'` in the folder of settx_fast's sources."
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.strerror}: '{error.filename}'."
    if isinstance(error, MemoryError):
        return f"There is not enough memory: {text or 'ask for fewer datasets or rows'}."
    if isinstance(error, (*BAD_INPUT, RuntimeError, ImportError)) and text:
        return text if text.endswith((".", "?", ")")) else f"{text}."
    return f"{type(error).__name__}: {text} (`settx-fast --traceback …` shows where)."
