"""Errors cross processes: each must come back as what it was."""

from __future__ import annotations

import inspect
import pickle

import pytest

from splitfire_batch import errors
from splitfire_batch.errors import FAILURE_CODES, SKIP_CODES, SplitfireError, StorageError, TrackError


def every_error() -> list[SplitfireError]:
    """One of each class in the module, made the way its signature asks for."""
    made = []
    for cls in vars(errors).values():
        if isinstance(cls, type) and issubclass(cls, SplitfireError):
            has_own_arguments = issubclass(cls, StorageError | TrackError)
            made.append(cls("OOM", "why; do this") if has_own_arguments else cls("why; do this"))
    return made


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_every_error_survives_pickle_with_type_attributes_and_text(error):
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is type(error)
    assert vars(again) == vars(error)
    assert (again.args, str(again)) == (error.args, str(error))


def test_every_class_has_a_place_in_the_tree_of_the_docstring():
    assert len(every_error()) == 13
    for error in every_error():
        assert type(error).__name__ in inspect.getdoc(errors)


def test_the_text_names_the_object_or_the_code():
    assert str(errors.NoSpace("s3://b/x", "quota")) == "s3://b/x: quota"
    assert str(TrackError("EMPTY", "0 bytes")) == "EMPTY: 0 bytes"


@pytest.mark.parametrize("code", FAILURE_CODES)
def test_every_code_has_a_meaning_and_says_whether_to_try_again(code):
    assert FAILURE_CODES[code].meaning
    assert TrackError(code, "why").is_retryable is FAILURE_CODES[code].is_retryable
    assert code == code.upper()


def test_what_lies_in_the_file_is_not_tried_again_and_what_lies_outside_is():
    assert not any(
        FAILURE_CODES[code].is_retryable for code in ("EMPTY", "NOT_AUDIO", "TRUNCATED", "TOO_LONG")
    )
    assert all(FAILURE_CODES[code].is_retryable for code in ("SOURCE_READ", "STORE_WRITE", "NO_SPACE", "OOM"))


def test_a_reason_to_skip_is_no_failure():
    assert not SKIP_CODES.keys() & FAILURE_CODES.keys()
    assert all(code == code.upper() and meaning for code, meaning in SKIP_CODES.items())
