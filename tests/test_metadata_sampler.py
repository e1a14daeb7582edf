"""What chunks tell a sampler, and that empty fields tell nothing."""

from __future__ import annotations

import struct

import pytest

from splitfire_batch.audio import Insert
from splitfire_batch.metadata.sampler import SamplerFacts, as_bpm, sampler_facts
from tests import chunked


def facts(*chunks: tuple[bytes, bytes], n_frames: int = 10_000) -> SamplerFacts:
    return sampler_facts([Insert(name, data) for name, data in chunks], n_frames)


def test_without_chunks_nothing_is_known():
    assert facts() == SamplerFacts()


def test_smpl_gives_note_and_first_loop():
    found = facts((b"smpl", chunked.smpl((100, 199), (5, 6), note=33)))
    assert found == SamplerFacts(root_note=33, loop_start=100, loop_end=199)


@pytest.mark.parametrize("loop", [(9, 8), (0, 10_001), (2**31, 2**32 - 1)])
def test_a_loop_outside_of_the_recording_is_none(loop):
    assert facts((b"smpl", chunked.smpl(loop))).loop_start is None


def test_a_loop_that_ends_a_frame_late_as_some_write_it_counts():
    assert facts((b"smpl", chunked.smpl((0, 10_000)))).loop_end == 10_000


def test_a_note_beyond_midi_is_none():
    assert facts((b"smpl", chunked.smpl(note=128))).root_note is None


def test_acid_loop():
    found = facts((b"acid", chunked.acid(174.0, 16, flags=2, note=66)))
    assert found == SamplerFacts(bpm=174, key="F#", sample_type="loop", beats=16, root_note=66)


def test_an_acid_note_counts_only_if_a_flag_says_it_was_set():
    found = facts((b"acid", chunked.acid(120, 4, flags=0, note=60)))
    assert (found.key, found.root_note) == (None, None)


def test_an_acid_one_shot_has_no_tempo_whatever_its_fields_hold():
    assert facts((b"acid", chunked.acid(120, 4, flags=1))) == SamplerFacts(sample_type="one-shot")


@pytest.mark.parametrize("beats", [0, 2**31])
def test_an_acid_chunk_without_beats_says_nothing(beats):
    """As 86335__zgump__tom-0105.wav of hydrogen-drumkits has it: all zeros, and no loop."""
    assert facts((b"acid", chunked.acid(0, beats))) == SamplerFacts()


def test_the_note_of_smpl_wins():
    assert facts((b"acid", chunked.acid(120, 4, 2, 60)), (b"smpl", chunked.smpl(note=40))).root_note == 40


def test_an_aiff_loop_lies_between_its_markers():
    chunks = (b"MARK", chunked.mark(7, 100, 200)), (b"INST", chunked.inst(60, 2, 3))
    assert facts(*chunks) == SamplerFacts(root_note=60, loop_start=100, loop_end=199)


def test_an_aiff_loop_between_markers_that_are_not_there_is_none():
    assert facts((b"MARK", chunked.mark(7)), (b"INST", chunked.inst(60, 2, 3))).loop_start is None


def test_an_apple_loop_has_beats_and_a_key():
    basc = struct.pack(">IIHHHHH", 1, 8, 57, 1, 4, 4, 1) + bytes(66)
    assert facts((b"basc", basc)) == SamplerFacts(key="Am", beats=8, root_note=57)


@pytest.mark.parametrize("value", [0.0, -120.0, 19.9, 401, float("nan"), float("inf")])
def test_what_is_no_tempo_is_none(value):
    assert as_bpm(value) is None
