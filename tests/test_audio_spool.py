import resource
import subprocess
import sys

import numpy as np
import pytest

from splitfire_batch.audio.spool import Spool

IN_MEMORY, ON_DISK, MOVES = 10**9, 0, 20_000


def noise(n_frames, dtype):
    x = np.random.default_rng(n_frames).standard_normal((n_frames, 2)) * 1e6
    return x.astype(dtype)


@pytest.mark.parametrize("limit", [IN_MEMORY, ON_DISK, MOVES])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
@pytest.mark.parametrize("n_frames", [1, 100, 1000, 10**6])
def test_what_went_in_comes_out_any_number_of_times(tmp_path, limit, dtype, n_frames):
    pieces = [noise(n, dtype) for n in (1000, 1, 0, 3000, 999)]
    with Spool(2, limit, tmp_path) as spool:
        for piece in pieces:
            spool.append(piece)
        assert spool.is_on_disk == (limit != IN_MEMORY)
        for _ in range(2):
            blocks = list(spool.blocks(n_frames))
            assert {len(block) for block in blocks[:-1]} <= {n_frames}
            assert {block.dtype for block in blocks} == {np.dtype(dtype)}
            assert np.array_equal(np.concatenate(blocks), np.concatenate(pieces))
        assert spool.n_frames == 5000


def test_two_readers_do_not_disturb_each_other(tmp_path):
    with Spool(2, ON_DISK, tmp_path) as spool:
        spool.append(noise(100, np.float32))
        pairs = list(zip(spool.blocks(7), spool.blocks(7), strict=True))
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_the_spool_keeps_a_copy(tmp_path):
    block = noise(10, np.float32)
    with Spool(2, IN_MEMORY, tmp_path) as spool:
        spool.append(block)
        block[:] = 0
        assert next(spool.blocks()).all()


def test_the_file_has_no_name(tmp_path):
    with Spool(2, ON_DISK, tmp_path) as spool:
        spool.append(noise(10, np.float32))
        assert spool.is_on_disk
        assert not list(tmp_path.iterdir())


def test_an_empty_spool_has_no_blocks(tmp_path):
    with Spool(2, IN_MEMORY, tmp_path) as spool:
        assert not list(spool.blocks())


@pytest.mark.parametrize("second", [np.zeros((5, 3), np.float32), np.zeros((5, 2), np.int32), np.zeros(5)])
def test_a_block_unlike_the_first_is_refused(tmp_path, second):
    with Spool(2, IN_MEMORY, tmp_path) as spool:
        spool.append(noise(10, np.float32))
        with pytest.raises(ValueError, match="wanted"):
            spool.append(second)


def test_a_full_disk_is_no_space(tmp_path):
    code = f"""
import resource, numpy as np
from splitfire_batch.audio.spool import Spool
from splitfire_batch.errors import NoSpace
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))
with Spool(2, 0, {str(tmp_path)!r}) as spool:
    try:
        spool.append(np.ones((100_000, 2), np.float32))
    except NoSpace as error:
        print("no space:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"no space: {tmp_path}: ")
