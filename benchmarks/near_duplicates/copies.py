"""Drawn images, and copies of them as web data sets hold them: resized, re-encoded, mirrored, cropped."""

from collections.abc import Callable
import io

from PIL import Image, ImageOps

from data_pipelines.synthetic import datasets, drawing


def drawn_images(count: int, seed: int = 0) -> list[Image.Image]:
  """That many different images, 96 x 96; `count` is a multiple of 8."""
  plans = datasets.plan_images('emo8', {'train': count}, seed)
  return [drawing.draw_image(plan.content, plan.rng).image for plan in plans]


def encoded(image: Image.Image, quality: int = 92) -> bytes:
  """A JPEG of the image."""
  file = io.BytesIO()
  image.save(file, 'JPEG', quality=quality)
  return file.getvalue()


def _half(image: Image.Image) -> Image.Image:
  return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def cropped(image: Image.Image, share: float) -> Image.Image:
  """Without this share of its width and of its height, half of it on each side."""
  x, y = round(image.width * share / 2), round(image.height * share / 2)
  return image.crop((x, y, image.width - x, image.height - y))


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    'half the size': lambda image: encoded(_half(image)), 'JPEG quality 30': lambda image: encoded(image, 30),
    'mirrored': lambda image: encoded(ImageOps.mirror(image)),
    'mirrored, half the size, quality 50': lambda image: encoded(_half(ImageOps.mirror(image)), 50),
    '2 % cropped': lambda image: encoded(cropped(image, 0.02)),
    '5 % cropped': lambda image: encoded(cropped(image, 0.05)),
    '10 % cropped': lambda image: encoded(cropped(image, 0.1)),
    'grey': lambda image: encoded(ImageOps.grayscale(image))}  # fmt: skip
