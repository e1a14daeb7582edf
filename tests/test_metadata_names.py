"""Tempo and key in real names: what is certain is found, what only looks like it is not."""

from __future__ import annotations

import pytest

from splitfire_batch.metadata.names import read_name

FOUND = {
    "SM_NP_100_electric_guitar_baby_Dmaj": (100, "D"),
    "SL_Cinematic_Synth_A_100BPM_01": (100, None),  # take A
    "Synth_loop_120bpm_Am": (120, "Am"),
    "KSHMR_Melody_128_F#m": (128, "F#m"),
    "Cymatics - Melody Loop 3 - 140 BPM G# Min": (140, "G#m"),
    "Cmin_90bpm_Keys": (90, "Cm"),
    "amen_174bpm": (174, None),
    "bpm140_dubstep": (140, None),
    "BPM 87 vinyl chops": (87, None),
    "140_bpm_Ebm_Wobble": (140, "Ebm"),
    "98.5bpm_Gmin_Rhodes": (98.5, "Gm"),
    "98,5 bpm": (98.5, None),
    "VOX_Am_128bpm_Dry": (128, "Am"),
    "128_Am_Lead": (128, "Am"),
    "Track 01 - C# minor 124BPM": (124, "C#m"),
    "dj tool 128 Bpm (Abm)": (128, "Abm"),
    "Guitar Loop 95BPM Dm": (95, "Dm"),
    "Gmaj7_Chord_120bpm": (120, None),  # a chord
    "lead_f#min_dry": (None, "F#m"),
    "OneShot_Kick_C#min": (None, "C#m"),
    "Pad_C#_110bpm": (110, "C#"),
    "E flat major scale": (None, "Eb"),
    "Symphony No. 94 in G major": (None, "G"),
    "Haydn - Symphony 94 in G major": (None, "G"),
    "Piano Sonata No 2 in B flat minor Op 35": (None, "Bbm"),
    "Toccata in D minor, BWV 565": (None, "Dm"),
    "Prelude in A minor": (None, "Am"),
}
NOTHING = [
    "808_Kick_01", "TR909_Snare", "Juno_106_Pad", "Take_100", "Track 101", "loop_drone_g_97",
    "Blink 182 - Feeling", "99 Problems", "7 Rings", "I_Am_The_Walrus", "I Am", "Who Am I 100",
    "Am_I_Wrong_128",
    "Amin - Song", "Emin & Robin 120", "FM_Bass_120", "Fm_Bell_120", "GM_Kit_64", "ebm_body_120", "Dm me",
    "A Minor Threat", "A Minor Inconvenience", "A_Major_Problem", "Bb King - 100", "Em & Dre 100", "Bm 99",
    "bass_drop_c", "guit_em9", "122557__anillogic__trimo-c3", "86335__zgump__tom-0105",
    "100bpm to 120bpm riser",
    "C major or C minor", "999bpm", "10bpm", "1120bpm_x", "320kbps", "Ab Soul", "as if", "", "bpm",
]  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_a_certain_tempo_or_key_is_found(name):
    facts = read_name(f"Pack 90bpm Cmin/{name}.wav")  # folders do not count
    assert (facts.bpm, facts.key) == FOUND[name]


@pytest.mark.parametrize("name", NOTHING)
def test_what_only_looks_like_one_is_not(name):
    facts = read_name(f"{name}.wav")
    assert (facts.bpm, facts.key) == (None, None)


@pytest.mark.parametrize(
    ("name", "sample_type"),
    [("Drum_Loop_120bpm", "loop"), ("loop_amen", None), ("Infinite Loop", None), ("OneShot_Kick", "one-shot"),
     ("one-shot snare", "one-shot"), ("One Shots 3", "one-shot"), ("kick", None)],
)  # fmt: skip
def test_a_loop_has_a_tempo_and_a_one_shot_says_so(name, sample_type):
    assert read_name(f"{name}.wav").sample_type == sample_type
