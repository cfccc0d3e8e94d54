import numpy as np
import pytest

from stages.reviewing import vectors
from tests.reviewing.data import features


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 2), (6, 5, 4)], ids=["vector", "map", "tokens"])
def test_every_layer_becomes_one_vector_per_image(shape: tuple[int, ...]) -> None:
    rows = np.random.default_rng(0).normal(size=shape).astype(np.float16)
    positions = {2: (), 4: (2, 3), 3: (1,)}[len(shape)]
    expected = rows.astype(np.float32).mean(positions) if positions else rows.astype(np.float32)
    loaded = vectors.load(features(rows, layer="any"))
    assert loaded is not None
    everything = np.arange(6)
    assert np.allclose(loaded.centred(everything).numpy(), expected - expected.mean(0), atol=1e-3)


def test_images_that_cannot_be_decoded_are_left_out() -> None:
    rows = np.arange(12, dtype=np.float16).reshape(4, 3)
    loaded = vectors.load(features(rows, ok=np.array([1, 0, 1, 1], "u1")))
    assert loaded is not None and loaded.images.tolist() == [0, 2, 3]
    assert np.allclose(loaded.mean.numpy(), rows[[0, 2, 3]].mean(0))


def test_pixels_have_no_vectors() -> None:
    assert vectors.load(features(np.zeros((4, 3, 8, 8), np.uint8), layer="input")) is None


def test_wide_vectors_keep_their_angles() -> None:
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(30, 3000)).astype(np.float16)
    rows[1] = rows[0] + 0.1 * rows[2]
    loaded = vectors.load(features(rows))
    assert loaded is not None and loaded.width == vectors.WIDEST
    units = loaded.unit(np.arange(30)).numpy()
    exact = rows.astype(np.float32) - rows.astype(np.float32).mean(0)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    assert np.abs(units @ units.T - exact @ exact.T).max() < 0.12
