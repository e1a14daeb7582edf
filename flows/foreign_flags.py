"""Flags of demucs, spleeter and audio-separator: not offered, and who uses one is told what there is here.

They are hidden options of the commands that separate, so help and documents do not show them.
"""

from __future__ import annotations

import inspect
from typing import Annotated, Any, NamedTuple

import typer

from flows.options import Command
from splitfire_batch.errors import ConfigError


class Foreign(NamedTuple):
    """A flag that other programs have."""

    flags: tuple[str, ...]
    here: str
    """What to write instead."""
    kind: Any = str
    """bool where it has no value."""


_MODEL = "name the model by --model, such as --model htdemucs; `splitfire models list` has the names"
_STEMS = "for vocals and the rest write --stems vocals,no_vocals; likewise for any stem"
_TEMPLATE = "names come from --template, such as {name}/{stem}.{ext}"
_DESTINATION = "`run` and `plan` have the destination as second argument, `separate` takes -o DIR"
_QUALITY = "--quality, 0.1 to 1, goes with --format mp3, ogg and opus"

FOREIGN = (
    Foreign(("-n", "--name"), _MODEL),
    Foreign(("-p", "--params_filename"), _MODEL),
    Foreign(("-m", "--model_filename"), _MODEL),
    Foreign(("--list-models",), "`splitfire models list` shows them", bool),
    Foreign(("--list_models",), "`splitfire models list` shows them", bool),
    Foreign(("--repo",), "models of your own come with --registry, a TOML file"),
    Foreign(("--model_file_dir",), "the environment's SPLITFIRE_CACHE is the folder that keeps weights"),
    Foreign(("--two-stems",), _STEMS),
    Foreign(("--other-method",), _STEMS),
    Foreign(("--single_stem",), "write --stems and the stem's name"),
    Foreign(
        ("--shifts",),
        "there are no random shifts, as every run shall give the same stems; --overlap 0.5 averages more "
        "estimates per frame, in more time",
    ),
    Foreign(
        ("--segment",),
        "segments are as long as the model was trained for; less memory takes --batch 1, or --audio-mb",
    ),
    Foreign(("--no-split",), "every track is taken in segments, in memory that does not grow with it", bool),
    Foreign(("-d",), "the device is chosen by --device; of a track there is no part to choose"),
    Foreign(("-j", "--jobs"), "`separate` takes --threads, `run` --workers and --threads"),
    Foreign(("--float32",), "write --format wav --depth float", bool),
    Foreign(("--int24",), "write --depth 24", bool),
    Foreign(("--flac",), "write --format flac", bool),
    Foreign(("--mp3",), "write --format mp3", bool),
    Foreign(("--mp3-bitrate",), _QUALITY),
    Foreign(("--mp3-preset",), _QUALITY),
    Foreign(("-b", "--bitrate"), _QUALITY),
    Foreign(("-c", "--codec"), "write --format, such as --format mp3"),
    Foreign(("--output_format",), "write --format, such as --format flac"),
    Foreign(
        ("--clip-mode",),
        "stems are never clipped: one that would be takes all stems of its track down by one gain, gain_db",
    ),
    Foreign(("--filename",), _TEMPLATE),
    Foreign(("-f", "--filename_format"), _TEMPLATE),
    Foreign(("-o", "--out"), _DESTINATION),
    Foreign(("--output_dir",), _DESTINATION),
    Foreign(("--use_autocast",), "write --precision fp16 or bf16", bool),
)


def refuses_foreign_flags(command: Command) -> Command:
    """A decorator: a flag of another program ends the command with the flag to use in its place."""
    own = inspect.signature(command).parameters.values()
    taken = {flag for parameter in own for flag in _flags(parameter)}
    hidden = {f"foreign_{i}": foreign for i, foreign in enumerate(FOREIGN) if taken.isdisjoint(foreign.flags)}

    def wrapper(**values: Any) -> None:
        for name, foreign in hidden.items():
            if values.pop(name) is not None:
                raise ConfigError(f"{'/'.join(foreign.flags)} is no option here: {foreign.here}")
        command(**values)

    wrapper.__doc__, wrapper.__name__ = command.__doc__, command.__name__
    options = [_hidden(name, foreign) for name, foreign in hidden.items()]
    wrapper.__signature__ = inspect.Signature([*own, *options])  # type: ignore[attr-defined]
    return wrapper  # type: ignore[return-value]


def _flags(parameter: inspect.Parameter) -> list[str]:
    """What an option is called on the command line; nothing of an argument."""
    notes = getattr(parameter.annotation, "__metadata__", ())
    # typer takes the first name for a default until the annotation is read
    options = [note for note in notes if hasattr(note, "param_decls")]
    words = [word for option in options for word in (option.default, *(option.param_decls or ()))]
    return [word for word in words if isinstance(word, str) and word.startswith("-")]


def _hidden(name: str, foreign: Foreign) -> inspect.Parameter:
    option, kind = typer.Option(*foreign.flags, hidden=True), foreign.kind | None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )
