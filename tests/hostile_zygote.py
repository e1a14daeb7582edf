"""Loaded by a zygote, and by nothing else: its children have hostile codecs."""

from tests.hostile_codecs import install

install()
