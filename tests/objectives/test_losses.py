"""Equal captions of a batch: what counts once is what a batch without the copies gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from uniemox_jax.models.layers import unit
from uniemox_jax.objectives import losses

COPIES = np.array([0, 1, 0, 2, 0, 1])


@pytest.fixture
def embeddings() -> list[jax.Array]:
  rng = np.random.default_rng(0)
  return [unit(jnp.asarray(rng.standard_normal((6, 5)), jnp.float32)) for _ in range(3)]


def test_equal_texts_weigh_as_one_text_each(embeddings):
  student, image, text = embeddings
  weight = losses.equal_text_weights(text[COPIES])
  np.testing.assert_allclose(weight, [1 / 3, 1 / 2, 1 / 3, 1, 1 / 3, 1 / 2], rtol=1e-6)
  np.testing.assert_allclose(
      losses.contrastive_cosine(student, image, text[COPIES], weight),
      losses.contrastive_cosine(student, image, text[:3]), atol=1e-6)
  np.testing.assert_allclose(
      losses.contrastive_kl(student, image, text[COPIES], jnp.float32(9.0), weight),
      losses.contrastive_kl(student, image, text[:3], jnp.float32(9.0)), atol=1e-5)


def test_groups_of_texts_are_weighted_within_the_group(embeddings):
  student, image, text = embeddings
  groups = losses.group_texts(text[COPIES], 3)
  weight = losses.equal_text_weights(groups)
  np.testing.assert_allclose(weight[0], [1 / 2, 1, 1 / 2])
  np.testing.assert_allclose(
      losses.contrastive_cosine(student, image, groups, weight)[0],
      losses.contrastive_cosine(student[:1], image[:1], text[:2])[0], atol=1e-6)


def test_distinct_texts_lose_nothing(embeddings):
  student, image, text = embeddings
  np.testing.assert_array_equal(
      losses.contrastive_cosine(student, image, text, losses.equal_text_weights(text)),
      losses.contrastive_cosine(student, image, text))


def test_an_equal_caption_of_another_image_is_no_negative_of_clip(embeddings):
  image, text, _ = embeddings
  ids = jnp.asarray(COPIES)[:, None] + jnp.arange(4)
  scale = jnp.float32(7.0)
  apart = losses.clip_contrastive(image, text[COPIES], scale, ids)
  logits = np.asarray(scale * image @ text[COPIES].T)
  for row, own in enumerate(COPIES):
    kept = (own != COPIES) | (np.arange(6) == row)
    by_image = logits[row, row] - np.log(np.exp(logits[row, kept]).sum())
    by_text = logits[row, row] - np.log(np.exp(logits[kept, row]).sum())
    assert float(apart[row]) == pytest.approx(-(by_image + by_text) / 2, rel=1e-4)
  gradient = jax.grad(lambda image: losses.clip_contrastive(image, text[COPIES], scale, ids).mean())(image)
  assert np.isfinite(gradient).all()
