"""Random numbers that depend on key, stream, scene and draw alone."""

import afresh
import numpy as np
import pytest
import torch

from objecthood.data.randomness import SPLITS, normal, scramble, split_key, start_noise, uniform


def test_scramble_is_splitmix64():
    # First outputs for seeds 0 and 1234567 of the published C version (prng.di.unimi.it/splitmix64.c).
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        zero = scramble(np.arange(1, 4, dtype=np.uint64) * golden)
        other = scramble(np.uint64(1234567) + np.arange(1, 4, dtype=np.uint64) * golden)
    assert [hex(value) for value in zero] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]
    assert other.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_scene_is_the_same_in_any_batch(draw):
    indices = np.array([5, 3, 2**40 - 1, 0])
    together = draw(7, indices, 6)
    for place, index in enumerate(indices):
        assert (draw(7, np.array([index]), 6)[0] == together[place]).all()
    assert (draw(7, indices[::-1], 6) == together[::-1]).all()


def test_more_draws_begin_with_the_same():
    assert (uniform(7, np.arange(4), 9)[:, :5] == uniform(7, np.arange(4), 5)).all()


def test_key_stream_scene_and_draw_all_matter():
    draws = np.stack(
        [uniform(key, np.arange(50), 20, stream) for key in (-1, 0, 1, 2, 10**9) for stream in range(4)]
    )
    assert len(np.unique(draws)) == draws.size
    assert np.abs(np.corrcoef(draws.reshape(20, -1)) - np.eye(20)).max() < 0.15


def test_uniform_is_uniform_and_normal_is_normal():
    draws = uniform(3, np.arange(2000), 50).flatten()
    assert draws.min() >= 0 and draws.max() < 1
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    assert ((counts - 5000) ** 2 / 5000).sum() < 60  # chi square of 19 degrees: 60 has probability 4e-6
    draws = normal(3, np.arange(2000), 50)
    assert abs(draws.mean()) < 0.02 and abs(draws.std() - 1) < 0.02
    assert abs((draws**4).mean() - 3) < 0.2 and np.isfinite(draws).all()
    assert abs(np.corrcoef(draws[:, 0], draws[:, 1])[0, 1]) < 0.1


def test_splits_and_seeds_have_keys_of_their_own():
    keys = {split_key(seed, split) for seed in range(100) for split in SPLITS}
    assert len(keys) == 300
    with pytest.raises(ValueError, match="`split` .='val'. must be one of train, validation, test"):
        split_key(0, "val")


def test_start_noise_is_fixed_by_the_image():
    together = start_noise(np.arange(10), 4, 8)
    assert together.shape == (10, 4, 8) and together.dtype == torch.float32
    assert (start_noise(np.array([6]), 4, 8)[0] == together[6]).all()


def test_numbers_are_the_same_in_another_process(tmp_path):
    modules = "import numpy as np; from objecthood.data.randomness import normal"
    code = f"{modules}; print(normal(7, np.arange(3), 4).tolist())"
    assert afresh.run(code, tmp_path, {}).strip() == str(normal(7, np.arange(3), 4).tolist())
