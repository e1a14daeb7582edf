"""`splitfire models`: the models on offer, and their weights."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from flows.options import Config, Flags, Json, takes_settings
from flows.settings import load_settings

models_app = typer.Typer(help="The models on offer.", no_args_is_help=True)


@models_app.command("list")
def models_list(as_json: Json = False) -> None:
    """List the models: stems, rate, licence."""
    from splitfire_batch.models import model_cards

    cards = model_cards()
    if as_json:
        fields = ("name", "architecture", "stems", "sample_rate", "weights_license", "is_commercial_ok")
        typer.echo(
            json.dumps([{field: getattr(card, field) for field in fields} for card in cards], indent=1)
        )
        return
    for card in cards:
        typer.echo(f"{card.name:20} {', '.join(card.stems):40} {card.sample_rate} Hz  {card.weights_license}")


@models_app.command("pull")
@takes_settings("runtime")
def models_pull(
    name: Annotated[str, typer.Argument(help="A name from `splitfire models list`.")],
    flags: Flags,
    config: Config = None,
) -> None:
    """Fetch a model's weights into the cache, verified, and print where they are."""
    from splitfire_batch.models import fetch_weights, find_card

    runtime = load_settings(flags, config).runtime
    path = fetch_weights(find_card(name), runtime.weights_mirror, runtime.storage)
    if path is None:
        typer.echo(f"{name} needs no weights", err=True)
    else:
        typer.echo(str(path))
