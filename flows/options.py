"""Command-line options made from the settings classes, so that flags, files and forms never differ.

Every field of a class becomes `--its-name`, with its docstring as help. Only what the operator gave is
passed on; defaults stay with the classes. Help is Rich's markup: a bracket that is to be seen is escaped.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape

from flows.settings import SECTIONS

Command = TypeVar("Command", bound=Callable[..., None])
Flags = dict[str, dict[str, Any]]
Source = Annotated[str, typer.Argument(help="Folder, bucket prefix, audio file, or table with a uri column.")]
Destination = Annotated[str, typer.Argument(help="Folder or bucket prefix for stems and manifest.")]
Config = Annotated[Path | None, typer.Option("--config", help=r"Settings file \[default: splitfire.toml].")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
WEIGHTS = ("registry", "weights_mirror", "offline", "require_commercial")
"""Fields of `runtime`: which models there are, which may be used, and where their weights come from."""
_FILE_ONLY = {"storage"}


def takes_settings(*sections: str, **parts: Sequence[str]) -> Callable[[Command], Command]:
    """A decorator: the command gets one option per field of these sections, as its argument `flags`.

    Args:
        sections: names of sections, whole.
        parts: sections of which only some fields change anything here, and these fields.
    """

    def decorate(command: Command) -> Command:
        fields = [(section, *item) for section in sections for item in _options(section)]
        for section, names in parts.items():
            fields += [(section, *item) for item in _options(section) if item[0] in names]
        own = [p for p in inspect.signature(command).parameters.values() if p.name != "flags"]
        hints = get_type_hints(command, include_extras=True)

        def wrapper(**values: Any) -> None:
            flags: Flags = {section: {} for section in (*sections, *parts)}
            for section, field, _ in fields:
                value = values.pop(field)
                if value is not None:
                    flags[section][field] = value
            command(**values, flags=flags)

        wrapper.__doc__ = command.__doc__
        wrapper.__name__ = command.__name__
        parameters = [p.replace(annotation=hints[p.name], kind=p.KEYWORD_ONLY) for p in own]
        wrapper.__signature__ = inspect.Signature(parameters + [option for *_, option in fields])  # type: ignore[attr-defined]
        return wrapper  # type: ignore[return-value]

    return decorate


@cache
def _options(section: str) -> tuple[tuple[str, inspect.Parameter], ...]:
    """Made once for all commands."""
    cls = SECTIONS[section]
    hints = get_type_hints(cls)
    described = cls.__pydantic_fields__  # type: ignore[attr-defined]
    return tuple(
        (field.name, _option(field, hints[field.name], described[field.name].description or "", section))
        for field in dataclasses.fields(cls)
        if field.name not in _FILE_ONLY
    )


def _option(field: dataclasses.Field[Any], hint: Any, text: str, section: str) -> inspect.Parameter:
    kind, is_many = _shape(hint)
    flag = "--" + field.name.replace("_", "-")
    default = f"no-{flag[2:]}" if field.default is False else flag[2:] if kind is bool else field.default
    shown = escape(f" [default: {default}]") if isinstance(default, str | int | float) else ""
    option = typer.Option(
        *([f"{flag}/--no-{flag[2:]}"] if kind is bool else [flag]),
        help=escape(text) + shown,
        rich_help_panel=section.capitalize(),
        show_default=False,
    )
    annotation = list[kind] | None if is_many else kind | None  # type: ignore[valid-type]
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, option]
    )


def _shape(hint: Any) -> tuple[Any, bool]:
    """The type of one value, and whether it repeats."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is tuple:
        return args[0], True
    if origin in (Union, types.UnionType):
        return _shape(next(arg for arg in args if arg is not type(None)))
    if origin is Annotated:
        return _shape(args[0])
    return hint, False
