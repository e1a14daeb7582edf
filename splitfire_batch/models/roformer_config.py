"""What a RoFormer has to know of itself: the community's YAML configs, read without running anything in them.

The format is that of Solovyev's Music-Source-Separation-Training (MIT), with which most public checkpoints
come: `audio` has the chunk, `model` the constructor's arguments, `training` the instruments, `inference` the
overlap; the rest is for training. A card may hold the same sections as tables of its `options`, or the whole
text as `config`. Which arguments the pinned network takes is known to `roformer_network`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from reprlib import repr as short
from typing import Any

from splitfire_batch.errors import ConfigError
from splitfire_batch.models.registry import ModelCard

SECTIONS = ("audio", "model", "training", "inference")
_OTHERS = ("augmentations", "optimizer", "loss", "lora")
"""Sections of the format that matter in training only."""
_MAX_TEXT = 2**20
_MAX_NESTING = 16
_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class RoformerConfig:
    """A checked config."""

    arguments: Mapping[str, Any]
    """Of the network's constructor, as they were written."""
    outputs: tuple[str, ...]
    """Names of the network's estimates, in order."""
    chunk_frames: int
    n_overlap: int
    """Chunks that cover each frame: one begins every chunk_frames // n_overlap."""


def read_config(card: ModelCard, texts: Mapping[str, str]) -> RoformerConfig:
    """The config of a card: its only YAML file, else its options.

    Raises:
        ConfigError: no config, more than one, not YAML, with a tag that makes an object, or with values that
            contradict the card.
    """
    sections = _sections(card, texts)
    audio, model, training, inference = (_section(card, sections, name) for name in SECTIONS)
    _check_equal(card, "audio.sample_rate", audio.get("sample_rate", card.sample_rate), card.sample_rate)
    _check_equal(card, "audio.num_channels", audio.get("num_channels", card.n_channels), card.n_channels)
    _check_equal(card, "model.stereo", model.get("stereo", False), card.n_channels == 2)
    chunk = inference.get("chunk_size", audio.get("chunk_size"))
    if chunk is None:
        raise ConfigError(f"{card.name}: its config has no audio.chunk_size, the frames of a segment")
    return RoformerConfig(
        arguments=model,
        outputs=_outputs(card, training, _whole(card, "model.num_stems", model.get("num_stems", 1))),
        chunk_frames=_whole(card, "audio.chunk_size", chunk, least=2),
        n_overlap=_whole(card, "inference.num_overlap", inference.get("num_overlap", 2)),
    )


def read_yaml(text: str, name: str) -> Any:
    """The data of a YAML text: plain values, lists, tables, and the tuples that these configs are full of.

    Raises:
        ConfigError: it is no YAML, is too long, or has a tag that would make an object of another kind.
    """
    try:
        import yaml
    except ImportError as error:
        raise ConfigError(f"{name} is YAML, which needs: pip install 'splitfire-batch[roformer]'") from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Builds plain data only; `!!python/tuple` is data too. Aliases make small texts endless data."""

        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("it has an alias (*name); write the value itself")
            self.depth += 1
            if self.depth > _MAX_NESTING:
                raise yaml.YAMLError(f"it is nested deeper than {_MAX_NESTING} levels")
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    def pairs(loader: yaml.SafeLoader, node: yaml.SequenceNode) -> tuple[Any, ...]:
        return tuple(loader.construct_sequence(node, deep=True))

    Loader.add_constructor("tag:yaml.org,2002:python/tuple", pairs)
    if len(text) > _MAX_TEXT:
        raise ConfigError(f"{name} has {len(text)} characters, wanted at most {_MAX_TEXT}; is it a config?")
    try:
        return yaml.load(text, Loader)  # noqa: S506 (it is a SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{name} is no config that may be read: {_one_line(error)}") from error


def _sections(card: ModelCard, texts: Mapping[str, str]) -> Mapping[str, Any]:
    """All sections, from where the card has them."""
    names = [name for name in texts if name.endswith(_SUFFIXES)]
    options = dict(card.options)
    if len(names) > 1 or (names and options):
        found = ", ".join([*names, *(f"options.{key}" for key in options)])
        raise ConfigError(
            f"{card.name} has its config in {found}; wanted one place; leave the file or the options out"
        )
    if names or "config" in options:
        name, text = (names[0], texts[names[0]]) if names else ("options.config", options.pop("config"))
        options = {**options, **_table(card, name, read_yaml(str(text), f"{card.name}: {name}"))}
    if not options:
        raise ConfigError(
            f"{card.name} has no config; wanted a YAML file among its files, or options.config, or "
            f"tables {', '.join(f'options.{name}' for name in SECTIONS)}"
        )
    unknown = [key for key in options if key not in (*SECTIONS, *_OTHERS)]
    if unknown:
        raise ConfigError(f"{card.name}: {unknown[0]!r} is no section of a config; {', '.join(SECTIONS)} are")
    return options


def _section(card: ModelCard, sections: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return _table(card, name, sections.get(name, {}))


def _table(card: ModelCard, name: str, found: Any) -> Mapping[str, Any]:
    if not isinstance(found, Mapping) or not all(isinstance(key, str) for key in found):
        raise ConfigError(
            f"{card.name}: {name} is {type(found).__name__}, wanted a table of names and values"
        )
    return found


def _outputs(card: ModelCard, training: Mapping[str, Any], n_stems: int) -> tuple[str, ...]:
    """The network's estimates by name; the card's stems are these, and for a single one also what is left."""
    target = training.get("target_instrument")
    instruments = training.get("instruments", [target] if target else list(card.stems[:n_stems]))
    if not isinstance(instruments, list | tuple) or not all(isinstance(name, str) for name in instruments):
        raise ConfigError(
            f"{card.name}: training.instruments is {short(instruments)}, wanted a list of names"
        )
    outputs = tuple(instruments) if target is None else (target,)
    if len(outputs) != n_stems:
        raise ConfigError(
            f"{card.name}: its network has {n_stems} stems (model.num_stems), and its config names "
            f"{', '.join(map(str, outputs))}; wanted a name for each in training.instruments"
        )
    rest = [stem for stem in card.stems if stem not in outputs]
    if not set(outputs) <= set(card.stems) or len(rest) > (n_stems == 1):
        also = " and at most one more, for what it leaves of the mix" if n_stems == 1 else ""
        raise ConfigError(
            f"{card.name}: its card has the stems {', '.join(card.stems)}, and its network gives "
            f"{', '.join(outputs)}; wanted those{also}"
        )
    return outputs


def _whole(card: ModelCard, name: str, found: Any, least: int = 1) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or found < least:
        raise ConfigError(f"{card.name}: {name} is {short(found)}, wanted a whole number of at least {least}")
    return found


def _check_equal(card: ModelCard, name: str, found: Any, wanted: object) -> None:
    if found != wanted:
        raise ConfigError(
            f"{card.name}: {name} of its config is {short(found)}, and its card says {wanted!r}"
        )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
