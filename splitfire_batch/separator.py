"""The Python API: a file in, arrays out.

    stems = splitfire_batch.separate("song.mp3")
    stems["vocals"]                 # (frames, channels), float32, at the song's own rate
    stems.save("out")               # out/vocals.wav, out/accompaniment.wav

`Separator` keeps a model loaded for many files; `separate` is its one-line twin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splitfire_batch.audio import StemWriter, choose_output
from splitfire_batch.config import OutputConfig, RuntimeConfig, SeparationConfig, configure
from splitfire_batch.ensembles import open_engine
from splitfire_batch.here import card_here, load_here
from splitfire_batch.records import AudioFormat
from splitfire_batch.separation import Limits, separate_file
from splitfire_batch.stem_blocks import float_blocks
from splitfire_batch.stems import make_recipes, needed_estimates
from splitfire_batch.stopwatch import Stopwatch


@dataclass(frozen=True, eq=False)
class Stems(Mapping[str, np.ndarray]):
    """Stems of one track by name: (frames, channels) float32, 1.0 is full scale, nothing is clipped.

    Frames, channels and `sample_rate` (Hz) are the source's. With the default settings the stems sum to
    the mix to float32 rounding.
    """

    arrays: dict[str, np.ndarray]
    sample_rate: int

    def __getitem__(self, stem: str) -> np.ndarray:
        return self.arrays[stem]

    def __iter__(self) -> Iterator[str]:
        return iter(self.arrays)

    def __len__(self) -> int:
        return len(self.arrays)

    def _format(self, array: np.ndarray) -> AudioFormat:
        return AudioFormat("WAV", "FLOAT", self.sample_rate, array.shape[1], len(array))

    def save(self, folder: str | Path) -> list[Path]:
        """Write `<folder>/<stem>.wav`, 32-bit float, and return the paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for stem, array in self.items():
            path = folder / f"{stem}.wav"
            output = choose_output(self._format(array), OutputConfig(format="wav", depth="float"))
            with StemWriter(path, output) as writer:
                writer.write(array)
                writer.close()
            paths.append(path)
        return paths


class Separator:
    """A loaded model that separates any number of files; may be called from many threads.

    Args:
        model: a name from `splitfire models list`.
        stems: the stems wanted; empty for all of the model's. `instrumental` is the mix minus the vocals.
        residual: `fold`, `stem` or `drop`: where goes what the model leaves over.
        device: `auto`, `cpu` or `cuda`.
        registry: TOML file or URL with models of your own; they are known to this process from then on.

    Raises:
        ConfigError: an unknown model, stem or device, or weights that cannot be had.
        TransientError: a source of the weights does not answer.
    """

    def __init__(
        self,
        model: str = "spleeter-2stems",
        stems: Sequence[str] = (),
        residual: str = "fold",
        device: str = "auto",
        registry: str | None = None,
    ) -> None:
        config = configure(SeparationConfig, {"model": model, "stems": tuple(stems), "residual": residual})
        runtime = configure(RuntimeConfig, {"device": device, "registry": registry})
        self._recipes = make_recipes(config, card_here(config, runtime).stems)
        self._engine = open_engine(*load_here(config, runtime), packs_short=False)

    def __enter__(self) -> Separator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the model."""
        self._engine.close()

    def separate(self, path: str | Path) -> Stems:
        """The stems of one audio file.

        Raises:
            TrackError: the file cannot be decoded; `code` says why.
            FileNotFoundError: there is no such file.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(path)
        parts: dict[str, list[np.ndarray]] = {recipe.stem: [] for recipe in self._recipes}
        wanted = needed_estimates(self._recipes)
        with separate_file(path, self._engine, wanted, Limits(), Stopwatch()) as separated:
            for _, block in float_blocks(separated, self._recipes):
                for stem, part in block.items():
                    parts[stem].append(part)
            arrays = {stem: np.concatenate(blocks) for stem, blocks in parts.items()}
            return Stems(arrays, separated.source.sample_rate)


def separate(path: str | Path, model: str = "spleeter-2stems", stems: Sequence[str] = ()) -> Stems:
    """The stems of one audio file; loads the model anew each time, so use `Separator` for many.

    Raises:
        ConfigError: an unknown model or stem.
        TrackError: the file cannot be decoded.
    """
    with Separator(model, stems) as separator:
        return separator.separate(path)
