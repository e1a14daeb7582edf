"""Recipes: whatever is chosen, each stem is an estimate or the mix minus estimates."""

from __future__ import annotations

import pytest

from splitfire_batch.config import SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.stems import Recipe, is_complete, make_recipes, needed_estimates

TWO = ("vocals", "accompaniment")
FOUR = ("drums", "bass", "other", "vocals")
NO_FOLD = ("drums", "vocals")


def recipes(model_stems: tuple[str, ...], *stems: str, residual: str = "fold") -> tuple[Recipe, ...]:
    return make_recipes(SeparationConfig(stems=stems, residual=residual), model_stems)


def render(made: tuple[Recipe, ...], mix: float, estimates: dict[str, float]) -> dict[str, float]:
    """What the recipes say, for signals of one sample."""
    return {
        recipe.stem: estimates[recipe.stem]
        if recipe.minus is None
        else mix - sum(estimates[stem] for stem in recipe.minus)
        for recipe in made
    }


@pytest.mark.parametrize("model_stems", [TWO, FOUR, NO_FOLD, ("other",)])
@pytest.mark.parametrize("residual", ["fold", "stem"])
def test_all_stems_sum_to_the_mix_whatever_the_model_leaves_over(model_stems, residual):
    made = recipes(model_stems, residual=residual)
    stems = render(made, 100.0, {stem: 3.0 + i for i, stem in enumerate(model_stems)})
    assert sum(stems.values()) == 100.0
    assert is_complete(made, model_stems)


@pytest.mark.parametrize("model_stems", [TWO, FOUR, NO_FOLD])
def test_a_dropped_residual_leaves_the_estimates_as_they_are(model_stems):
    assert recipes(model_stems, residual="drop") == tuple(map(Recipe, model_stems))


def test_the_stem_that_takes_the_rest_is_accompaniment_or_other():
    assert recipes(TWO)[1] == Recipe("accompaniment", ("vocals",))
    assert recipes(FOUR)[2] == Recipe("other", ("drums", "bass", "vocals"))
    assert recipes(NO_FOLD)[-1] == Recipe("residual", NO_FOLD)


def test_instrumental_is_the_mix_minus_the_vocals_and_made_only_when_asked_for():
    assert recipes(FOUR, "instrumental") == (Recipe("instrumental", ("vocals",)),)
    assert "instrumental" not in [recipe.stem for recipe in recipes(FOUR)]


def test_chosen_stems_come_in_the_models_order():
    assert [recipe.stem for recipe in recipes(FOUR, "vocals", "drums")] == ["drums", "vocals"]
    assert not is_complete(recipes(FOUR, "vocals", "drums"), FOUR)


def test_estimates_are_needed_once_each_and_only_those_that_are_read():
    assert needed_estimates(recipes(FOUR, "vocals")) == ("vocals",)
    assert needed_estimates(recipes(TWO)) == ("vocals",)
    assert sorted(needed_estimates(recipes(FOUR, "vocals", "instrumental"))) == ["vocals"]


@pytest.mark.parametrize(
    ("model_stems", "stem"), [(TWO, "drums"), (("drums", "other"), "instrumental"), (TWO, "residual")]
)
def test_a_stem_the_model_cannot_give_is_refused_with_those_it_can(model_stems, stem):
    with pytest.raises(ConfigError, match=f"'{stem}' is not one .* gives {model_stems[0]}, {model_stems[1]}"):
        recipes(model_stems, stem)
