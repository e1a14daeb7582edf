"""A destination with plain names holds one set of settings per model, and never takes old stems for new."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitfire_batch.config import OutputConfig, SeparationConfig
from splitfire_batch.errors import ConfigError
from splitfire_batch.identity import settings
from splitfire_batch.manifest.holdings import (
    Holding,
    choose_holding,
    is_current,
    read_holdings,
    record_holding,
)
from splitfire_batch.storage import Store, open_store

A = settings(SeparationConfig(), OutputConfig(), "w")
B = settings(SeparationConfig(short_clip="reference"), OutputConfig(depth="16"), "w")
OTHER_MODEL = settings(SeparationConfig(model="passthrough"), OutputConfig(), "w")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"), {})


def use(
    store: Store, values: dict[str, object], is_immutable: bool = False, replace: bool = False
) -> Holding:
    """What a run with these settings does."""
    holding = choose_holding(store, values, is_immutable, replace)
    record_holding(store, holding)
    return holding


def test_what_is_recorded_can_be_read_back(store):
    assert read_holdings(store) == []
    holding = use(store, A)
    assert read_holdings(store) == [holding]
    assert use(store, A) == holding
    assert read_holdings(store) == [holding]


def test_choosing_records_nothing(store):
    choose_holding(store, A, is_immutable=False, replace=False)
    assert read_holdings(store) == []


def test_other_settings_are_refused_by_naming_every_difference_and_the_ways_out(store):
    use(store, A)
    with pytest.raises(ConfigError) as caught:
        use(store, B)
    for part in (
        store.url,
        "depth was 'source' and is now '16', short_clip was 'adaptive' and is now 'reference'",
        "--replace",
        'names = "immutable"',
    ):
        assert part in str(caught.value)
    assert "weights_id" not in str(caught.value)


def test_a_setting_that_older_runs_did_not_have_is_a_difference(store):
    use(store, {name: value for name, value in A.items() if name != "dither"})
    with pytest.raises(ConfigError, match="dither was None and is now True"):
        use(store, A)


def test_another_model_has_names_of_its_own(store):
    use(store, A)
    assert use(store, OTHER_MODEL).epoch == 0


def test_a_replacement_begins_an_epoch_and_ends_the_one_before(store):
    first, other = use(store, A), use(store, OTHER_MODEL)
    second = use(store, B, replace=True)
    holdings = read_holdings(store)
    assert second.epoch == 1
    assert is_current(second, holdings)
    assert not is_current(first, holdings)
    assert is_current(other, holdings)
    assert use(store, B) == second


def test_replacing_by_equal_settings_changes_nothing(store):
    assert use(store, A, replace=True) == use(store, A)


def test_settings_that_come_back_after_a_replacement_do_not_inherit_the_old_rows(store):
    first = use(store, A)
    use(store, B, replace=True)
    with pytest.raises(ConfigError):
        use(store, A)
    back = use(store, A, replace=True)
    assert (back.epoch, back.settings) == (2, A)
    assert back.settings_id != first.settings_id
    assert use(store, A) == back


def test_immutable_names_let_settings_lie_side_by_side(store):
    holdings = [use(store, values, is_immutable=True) for values in (A, B)]
    assert [holding.epoch for holding in holdings] == [0, 0]
    assert all(is_current(holding, read_holdings(store)) for holding in holdings)


def test_immutable_names_after_a_replacement_do_not_count_stems_that_were_written_over(store):
    first = use(store, A)
    second = use(store, B, replace=True)
    back = use(store, A, is_immutable=True)
    assert back.settings_id != first.settings_id
    assert all(is_current(holding, read_holdings(store)) for holding in (second, back))
    assert use(store, B, is_immutable=True) == second


@pytest.mark.parametrize(("held", "wanted"), [(A, B), (B, A)])
def test_plain_names_are_refused_where_other_settings_have_been_added_beside(store, held, wanted):
    use(store, held)
    use(store, wanted, is_immutable=True)
    for values in (held, wanted):
        with pytest.raises(ConfigError, match="made with other settings"):
            use(store, values)
