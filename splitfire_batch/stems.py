"""Which stems a job writes, and how each is made from the model's estimates.

A written stem is either an estimate as it is, or the mix minus some estimates. That is what makes stems
sum to the mix: with `residual = "fold"` the last stem (accompaniment, other) is the mix minus all the
others, so everything the model leaves over, bandwidth included, is in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from splitfire_batch.config import OutputConfig, SeparationConfig
from splitfire_batch.errors import ConfigError

FOLD_STEMS = ("accompaniment", "other")
"""Stems that take what the model leaves over, by preference."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make one written stem: the estimate of that name, or the mix minus the estimates `minus`."""

    stem: str
    minus: tuple[str, ...] | None = None


def make_recipes(config: SeparationConfig, model_stems: tuple[str, ...]) -> tuple[Recipe, ...]:
    """The stems to write, in the model's order, the residual last.

    Raises:
        ConfigError: a stem asked for that the model does not have.
    """
    recipes = _all_recipes(config, model_stems)
    if not config.stems:
        return tuple(recipe for recipe in recipes.values() if recipe.stem != "instrumental")
    unknown = [stem for stem in config.stems if stem not in recipes]
    if unknown:
        raise ConfigError(
            f"stem {unknown[0]!r} is not one that {config.model} can give; it gives {', '.join(recipes)}"
        )
    return tuple(recipe for stem, recipe in recipes.items() if stem in config.stems)


def check_skips(output: OutputConfig, model_stems: tuple[str, ...]) -> None:
    """Refuse to judge tracks by vocals that the model does not have.

    Raises:
        ConfigError: skip_without_vocals is set, and the model has no vocals.
    """
    if output.skip_without_vocals is not None and "vocals" not in model_stems:
        raise ConfigError(f"skip_without_vocals needs a model with vocals; it gives {', '.join(model_stems)}")


def needed_estimates(recipes: Sequence[Recipe]) -> tuple[str, ...]:
    """The estimates that the recipes read, each once."""
    names = [name for recipe in recipes for name in (recipe.minus or (recipe.stem,))]
    return tuple(dict.fromkeys(names))


def is_complete(recipes: tuple[Recipe, ...], model_stems: tuple[str, ...]) -> bool:
    """Whether the written stems are meant to sum to the mix, or to the model's output in place of it."""
    return set(model_stems) <= {recipe.stem for recipe in recipes}


def possible_stems(model_stems: tuple[str, ...]) -> tuple[str, ...]:
    """Every stem that some settings make of a model's estimates."""
    return (*model_stems, "residual", "instrumental")


def _all_recipes(config: SeparationConfig, model_stems: tuple[str, ...]) -> dict[str, Recipe]:
    recipes = {stem: Recipe(stem) for stem in model_stems}
    fold = next((stem for stem in FOLD_STEMS if stem in model_stems), None)
    if config.residual == "fold" and fold:
        recipes[fold] = Recipe(fold, minus=tuple(stem for stem in model_stems if stem != fold))
    if config.residual == "stem" or (config.residual == "fold" and not fold):
        recipes["residual"] = Recipe("residual", minus=model_stems)
    if "vocals" in model_stems:
        recipes["instrumental"] = Recipe("instrumental", minus=("vocals",))
    return recipes
