"""`splitfire models`: the models on offer, their terms, and their weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.options import WEIGHTS, Config, Flags, Json, Quiet, takes_settings
from flows.settings import load_settings
from splitfire_batch.errors import ConfigError
from splitfire_batch.escapes import one_line

if TYPE_CHECKING:
    from splitfire_batch.models import ModelCard, Supply

EXIT_DAMAGED = 6
_KNOWN = ("registry", "offline")
"""Of the runtime's settings, those that say which models there are."""

models_app = typer.Typer(help="The models on offer, their terms, and their weights.", no_args_is_help=True)

Names = Annotated[list[str] | None, typer.Argument(help="Names from `splitfire models list`.")]


@models_app.command("list")
@takes_settings(runtime=("registry", "offline", "require_commercial"))
def models_list(flags: Flags, config: Config = None, as_json: Json = False) -> None:
    """List the models: architecture, stems, licences, and whether the weights are cached."""
    from flows.model_texts import list_lines, list_record
    from splitfire_batch.models import model_cards

    runtime = load_settings(flags, config).runtime
    cards = [card for card in model_cards() if not runtime.require_commercial or _is_cleared(card)]
    if as_json:
        typer.echo(json.dumps([list_record(card) for card in cards], indent=1))
    else:
        for line in list_lines(cards):
            typer.echo(line)


@models_app.command("show")
@takes_settings(runtime=_KNOWN)
def models_show(
    name: Annotated[str, typer.Argument(help="A name from `splitfire models list`.")],
    flags: Flags,
    config: Config = None,
    as_json: Json = False,
) -> None:
    """Show all that is known of a model: licences, training data, files and hashes, figures, parity."""
    from flows.model_texts import show_lines, show_record
    from splitfire_batch.models import find_card

    load_settings(flags, config)
    card = find_card(name)
    lines = show_lines(card, flags["runtime"].get("registry"))
    for line in [json.dumps(show_record(card), indent=1)] if as_json else lines:
        typer.echo(line)


@models_app.command("pull")
@takes_settings(runtime=WEIGHTS)
def models_pull(
    flags: Flags,
    names: Names = None,
    every: Annotated[bool, typer.Option("--all", help="Every model that can be had.")] = False,
    to: Annotated[
        str | None, typer.Option(help="Mirror the published files to this folder or URL, for weights_mirror.")
    ] = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fetch weights into the cache, or to a mirror, verified; print where they are."""
    from flows.downloading import showing_downloads
    from splitfire_batch.models import check_commercial, supply_of
    from splitfire_batch.storage.urls import refuse_secrets

    runtime = load_settings(flags, config).runtime
    refuse_secrets(to, runtime.weights_mirror)
    cards = _chosen(names or [], every)
    if runtime.require_commercial:
        for card in cards:
            check_commercial(card)
    places: dict[str, list[str]] = {}
    with showing_downloads(quiet or as_json):
        for card in _parts(cards):
            if every and card.open_files:
                typer.echo(f"{card.name} is left out: its weights are yours to bring", err=True)
                continue
            places[card.name] = []
            for place in _pulled(card, to, supply_of(runtime)):
                places[card.name].append(place)
                if not as_json:
                    typer.echo(place)
    if as_json:
        typer.echo(json.dumps(places, indent=1))


def _pulled(card: ModelCard, to: str | None, supply: Supply) -> Iterator[str]:
    """Where the weights of one model are then."""
    from splitfire_batch.models import weights

    if not card.files:
        if not card.members:
            typer.echo(f"{card.name} needs no weights", err=True)
    elif to is None:
        damaged = [found for found in weights.inspect_cached(card) if found.damage]
        yield str(weights.fetch_weights(card, supply))
        for found in damaged:
            typer.echo(one_line(f"{found.path} was damaged ({found.damage}); fetched anew"), err=True)
    else:
        yield from weights.mirror_weights(card, to, supply)


@models_app.command("verify")
@takes_settings(runtime=_KNOWN)
def models_verify(flags: Flags, names: Names = None, config: Config = None, as_json: Json = False) -> None:
    """Read cached weights whole and compare their hashes; all that are cached, or those named."""
    from flows.model_texts import condition_line, pull_command
    from splitfire_batch.models.weights import cache_folder, inspect_cached

    load_settings(flags, config)
    given = flags["runtime"].get("registry")
    records = []
    for card in _parts(_chosen(names or [], every=not names)):
        found = inspect_cached(card) if card.files else []
        remedy = pull_command(card.name, given)
        if names and card.files and not found:
            records.append(_condition(card, "not cached", "", remedy))
        for item in found:
            records.append(
                _condition(card, item.damage or "whole", str(item.path), remedy if item.damage else "")
            )
    if as_json:
        typer.echo(json.dumps(records, indent=1))
    else:
        for record in records:
            typer.echo(condition_line(record))
    if not records:
        typer.echo(f"no weights are cached in {cache_folder()}", err=True)
    raise typer.Exit(EXIT_DAMAGED if any(record["condition"] != "whole" for record in records) else 0)


def _condition(card: ModelCard, condition: str, path: str, remedy: str) -> dict[str, Any]:
    return {"model": card.name, "condition": condition, "path": path, "remedy": remedy}


def _chosen(names: Sequence[str], every: bool) -> list[ModelCard]:
    from splitfire_batch.models import find_card, model_cards

    if every == bool(names):
        raise ConfigError(f"found {'--all and names' if every else 'no name'}, wanted names or --all")
    return list(model_cards()) if every else [find_card(name) for name in names]


def _parts(cards: Sequence[ModelCard]) -> list[ModelCard]:
    """These models and their members, each once."""
    from splitfire_batch.models import with_members

    return list({part.name: part for card in cards for part in with_members(card)}.values())


def _is_cleared(card: ModelCard) -> bool:
    from splitfire_batch.models import with_members

    return all(part.is_commercial_ok for part in with_members(card))
