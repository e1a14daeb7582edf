"""Which stems a job writes, and how each is made from the model's estimates.

A written stem is either an estimate as it is, or the mix minus some estimates. That is what makes stems
sum to the mix: with `residual = "fold"` the last stem (accompaniment, other) is the mix minus all the
others, so everything the model leaves over, bandwidth included, is in it. A model of a single stem has no
others: what it leaves is a stem of its own, instrumental beside vocals.

Beside those there are stems to be asked for: the mix without one of the model's, `no_drums` and the like, and
`instrumental`, which is the mix without vocals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from splitfire_batch.config import OutputConfig, SeparationConfig
from splitfire_batch.errors import ConfigError

FOLD_STEMS = ("accompaniment", "other", "instrumental")
"""Stems that take what the model leaves over, by preference."""
RESIDUAL = "residual"
"""The stem of what a model leaves over, with `residual = "stem"`."""
WITHOUT = "no_"
"""Begins the name of a stem that is the mix without the one that follows."""
_REST = {"vocals": "instrumental", "instrumental": "vocals"}
"""What a model's only stem leaves of the mix, where it has a better name than `no_<stem>`."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make one written stem: the estimate of that name, or the mix minus the estimates `minus`."""

    stem: str
    minus: tuple[str, ...] | None = None
    is_extra: bool = False
    """Beside the stems that sum to the mix."""


def make_recipes(config: SeparationConfig, model_stems: tuple[str, ...]) -> tuple[Recipe, ...]:
    """The stems to write, in the model's order, the residual last.

    Raises:
        ConfigError: a stem asked for that the model does not have.
    """
    recipes = _all_recipes(config, model_stems)
    if not config.stems:
        return tuple(recipe for recipe in recipes.values() if not recipe.is_extra)
    unknown = [stem for stem in config.stems if stem not in recipes]
    if unknown:
        named = [stem for stem in recipes if not stem.startswith(WITHOUT)]
        raise ConfigError(
            f"stem {unknown[0]!r} is not one that {config.model} can give; it gives {', '.join(named)}, and "
            f"the mix without one, such as {WITHOUT}{model_stems[0]}"
        )
    return _of_one(tuple(recipe for stem, recipe in recipes.items() if stem in config.stems))


def check_skips(output: OutputConfig, model_stems: tuple[str, ...]) -> None:
    """Refuse to judge tracks by vocals that the model does not have.

    Raises:
        ConfigError: skip_without_vocals is set, and the model has no vocals.
    """
    if output.skip_without_vocals is not None and "vocals" not in model_stems:
        raise ConfigError(f"skip_without_vocals needs a model with vocals; it gives {', '.join(model_stems)}")


def with_judged(separation: SeparationConfig, output: OutputConfig) -> SeparationConfig:
    """The settings to load the model with: it has to compute the vocals, too, if tracks are judged by them.

    They are not those to make recipes of: the vocals are not written for that.
    """
    is_judged = output.skip_without_vocals is not None and separation.stems
    return replace(separation, stems=(*separation.stems, "vocals")) if is_judged else separation


def needed_estimates(recipes: Sequence[Recipe]) -> tuple[str, ...]:
    """The estimates that the recipes read, each once."""
    names = [name for recipe in recipes for name in (recipe.minus or (recipe.stem,))]
    return tuple(dict.fromkeys(names))


def is_complete(recipes: tuple[Recipe, ...], model_stems: tuple[str, ...]) -> bool:
    """Whether the written stems are meant to sum to the mix, or to the model's output in place of it."""
    parts = parts_of_mix(recipes)
    return set(model_stems) <= set(parts) and len(parts) > 1


def parts_of_mix(recipes: Sequence[Recipe]) -> tuple[str, ...]:
    """The written stems without those that are there beside the sum, or are the mix without one of them."""
    return tuple(recipe.stem for recipe in recipes if not recipe.is_extra)


def whole_of(recipes: Sequence[Recipe], sums_to_mix: bool) -> tuple[str, ...]:
    """Written stems that are the whole mix together: all parts, or one and the mix without it; else none."""
    if sums_to_mix:
        return parts_of_mix(recipes)
    estimates = {recipe.stem for recipe in recipes if recipe.minus is None}
    pairs = [(*recipe.minus, recipe.stem) for recipe in recipes if recipe.is_extra and recipe.minus]
    return next((pair for pair in pairs if pair[0] in estimates), ())


def possible_stems(model_stems: tuple[str, ...]) -> tuple[str, ...]:
    """Every stem that some settings make of a model's estimates."""
    rest = _REST.get(model_stems[0]) if len(model_stems) == 1 else None
    others = (
        RESIDUAL,
        "instrumental",
        *((rest,) if rest else ()),
        *(WITHOUT + stem for stem in model_stems),
    )
    return tuple(dict.fromkeys((*model_stems, *others)))


def _all_recipes(config: SeparationConfig, model_stems: tuple[str, ...]) -> dict[str, Recipe]:
    recipes = {stem: Recipe(stem) for stem in model_stems}
    extras = {WITHOUT + stem: Recipe(WITHOUT + stem, (stem,), is_extra=True) for stem in model_stems}
    if "vocals" in model_stems:
        extras = {"instrumental": Recipe("instrumental", ("vocals",), is_extra=True), **extras}
    if len(model_stems) == 1 and config.residual == "fold":
        rest = _REST.get(model_stems[0], WITHOUT + model_stems[0])
        recipes[rest] = Recipe(rest, minus=model_stems)
    elif config.residual == "fold" and (fold := _fold_stem(model_stems)):
        recipes[fold] = Recipe(fold, minus=tuple(stem for stem in model_stems if stem != fold))
    elif config.residual != "drop":
        recipes[RESIDUAL] = Recipe(RESIDUAL, minus=model_stems)
    return {**recipes, **{stem: recipe for stem, recipe in extras.items() if stem not in recipes}}


def _fold_stem(model_stems: tuple[str, ...]) -> str | None:
    return next((stem for stem in FOLD_STEMS if stem in model_stems), None)


def _of_one(recipes: tuple[Recipe, ...]) -> tuple[Recipe, ...]:
    """A stem and the mix without it need that one's estimate alone, also where the stem takes the rest."""
    extras = [recipe for recipe in recipes if recipe.is_extra]
    if len(recipes) == 2 and len(extras) == 1 and extras[0].minus == (recipes[0].stem,):
        return Recipe(recipes[0].stem), extras[0]
    return recipes
