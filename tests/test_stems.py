"""Recipes: whatever is chosen, each stem is an estimate or the mix minus estimates."""

from __future__ import annotations

import pytest

from splitfire_batch.config import OutputConfig, SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.stems import (
    Recipe,
    check_skips,
    is_complete,
    make_recipes,
    needed_estimates,
    possible_stems,
    whole_of,
    with_judged,
)

TWO = ("vocals", "accompaniment")
FOUR = ("drums", "bass", "other", "vocals")
SIX = ("drums", "bass", "other", "vocals", "guitar", "piano")
NO_FOLD = ("drums", "vocals")
SINGLE = [("vocals",), ("instrumental",), ("drums",), ("other",)]


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


@pytest.mark.parametrize("model_stems", [TWO, FOUR, SIX, NO_FOLD, *SINGLE, ("vocals", "instrumental")])
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
    assert recipes(FOUR, "instrumental") == (Recipe("instrumental", ("vocals",), is_extra=True),)
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


@pytest.mark.parametrize("residual", ["fold", "stem", "drop"])
@pytest.mark.parametrize("stem", FOUR)
def test_a_stem_and_the_mix_without_it_sum_to_the_mix_and_need_one_estimate(stem, residual):
    made = recipes(FOUR, f"no_{stem}", stem, residual=residual)
    assert [recipe.stem for recipe in made] == [stem, f"no_{stem}"]
    assert needed_estimates(made) == (stem,)
    assert sum(render(made, 100.0, {stem: 3.0}).values()) == 100.0
    assert whole_of(made, is_complete(made, FOUR)) == (stem, f"no_{stem}")


def test_the_mix_without_a_stem_stands_beside_the_stems_that_sum_to_it():
    made = recipes(FOUR, *FOUR, "no_drums", "instrumental")
    assert is_complete(made, FOUR)
    assert whole_of(made, True) == FOUR
    assert whole_of(recipes(FOUR, "vocals", "no_drums"), False) == ()


@pytest.mark.parametrize(
    ("model_stems", "rest"),
    [(("vocals",), "instrumental"), (("instrumental",), "vocals"), (("drums",), "no_drums")],
)
def test_what_a_single_stem_leaves_of_the_mix_is_a_stem_with_a_name_of_its_own(model_stems, rest):
    made = recipes(model_stems)
    assert made == (Recipe(model_stems[0]), Recipe(rest, model_stems))
    assert is_complete(made, model_stems)
    assert recipes(model_stems, rest) == (Recipe(rest, model_stems),)
    assert not is_complete(recipes(model_stems, model_stems[0]), model_stems)
    assert not is_complete(recipes(model_stems, residual="drop"), model_stems)
    assert rest in possible_stems(model_stems)


def test_a_model_with_an_instrumental_of_its_own_gives_that_or_folds_into_it():
    stems = ("vocals", "instrumental")
    assert recipes(stems)[1] == Recipe("instrumental", ("vocals",))
    assert recipes(stems, residual="drop")[1] == Recipe("instrumental")
    assert possible_stems(stems) == ("vocals", "instrumental", "residual", "no_vocals", "no_instrumental")


@pytest.mark.parametrize("model_stems", [TWO, FOUR, SIX, NO_FOLD, *SINGLE])
@pytest.mark.parametrize("residual", ["fold", "stem", "drop"])
def test_every_stem_that_can_be_asked_for_is_a_possible_one(model_stems, residual):
    known = possible_stems(model_stems)
    given = [stem for stem in known if _is_given(model_stems, stem, residual)]
    assert {*model_stems, *(f"no_{stem}" for stem in model_stems)} <= set(given)
    assert {recipe.stem for recipe in recipes(model_stems, residual=residual)} <= set(known)
    assert len(set(known)) == len(known)


def _is_given(model_stems: tuple[str, ...], stem: str, residual: str) -> bool:
    try:
        return bool(recipes(model_stems, stem, residual=residual))
    except ConfigError:
        return False


def test_tracks_that_are_judged_by_their_vocals_need_them_whatever_is_written():
    judged = OutputConfig(skip_without_vocals=-30)
    drums = SeparationConfig(stems=("drums",))
    assert needed_estimates(make_recipes(with_judged(drums, judged), FOUR)) == ("drums", "vocals")
    assert with_judged(drums, OutputConfig()) == drums
    assert "vocals" in needed_estimates(make_recipes(with_judged(SeparationConfig(), judged), FOUR))
    with pytest.raises(ConfigError, match="it gives drums, other"):
        check_skips(judged, ("drums", "other"))
