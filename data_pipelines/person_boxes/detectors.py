"""Person detectors from images to scored boxes: a transformers model, a YOLOX file, or OpenCV's HOG."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from data_pipelines import storage
from data_pipelines.errors import UserError, first_line

RECOMMENDED = 'ustc-community/dfine-large-coco'
"""The recommended detector: D-FINE-L (Peng et al., ICLR 2025), trained on COCO alone, Apache-2.0, 126 MB."""

FLOOR = 0.1
"""The least score of a box that is reported."""
MAX_ASPECT = 40
"""The largest ratio of the sides; longer strips show no whole person."""

Detector = Callable[[list[Image.Image]], list[np.ndarray]]
"""A function from RGB images to float64 (N, 5) for each: xmin, ymin, xmax, ymax in its pixels, and a score in [0, 1].

A score of 0.5 or more means that a person is more likely than not. Boxes may cross the image's edge, and a row that is
not finite stands for a broken result.
"""

_BROKEN = np.full((1, 5), np.nan)


def load_detector(name: str) -> Detector:
  """Loads the detector that `--detector` names.

  `name` is 'hog', the path of a YOLOX file (.onnx), or a folder or hub id of a transformers object-detection model.
  Raises UserError if its library is not installed, there is no such model, or it does not detect persons.
  """
  if name == 'hog' or name.lower().endswith('.onnx'):
    detect_one = Hog() if name == 'hog' else Yolox(name)
    return _without_strips(lambda images: [detect_one(image) for image in images])
  return _without_strips(Transformer(name))


def _without_strips(detect: Detector) -> Detector:
  """Nobody is found in images over `MAX_ASPECT` times as long as wide: the input would be empty, or huge."""

  def detect_others(images: list[Image.Image]) -> list[np.ndarray]:
    others = [image for image in images if max(image.size) <= MAX_ASPECT * min(image.size)]
    found = dict(zip(map(id, others), detect(others) if others else [], strict=True))
    return [found.get(id(image), np.zeros((0, 5))) for image in images]

  return detect_others


_HUB_FILES = ['*.json', '*.safetensors']


class Transformer:
  """A transformers object-detection model (D-FINE, RT-DETR, DETR, YOLOS...), on the GPU where PyTorch sees one.

  Images are prepared and boxes scaled back by the model's own image processor, always in its PIL form: boxes
  then do not depend on whether torchvision is installed. Weights come from safetensors only.

  Args:
    name: a folder or hub id; the model's config must name a class 'person'.

  Raises:
    UserError: PyTorch is not installed; the model does not load, or not as a whole; or it has no class 'person'.
  """

  def __init__(self, name: str):
    try:
      import huggingface_hub
      import torch
      import transformers
    except ImportError as error:
      raise UserError(f"--detector={name} needs PyTorch: pip install 'uniemox_jax[torch]'") from error
    try:
      # Fetched here: without a network, transformers tries again for each of many files before it gives up.
      folder = name if storage.exists(name) else huggingface_hub.snapshot_download(name, allow_patterns=_HUB_FILES)
      self._processor = transformers.AutoImageProcessor.from_pretrained(folder, backend='pil', trust_remote_code=False)
      model, loaded = transformers.AutoModelForObjectDetection.from_pretrained(
          folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True)
    except Exception as error:  # The hub, safetensors and the models have errors of many kinds.
      raise UserError(
          f'--detector={name} does not load as a transformers object-detection model with safetensors weights: give a '
          f'folder, or a hub id such as {RECOMMENDED} ({first_line(error)})') from error
    if loaded['missing_keys']:  # transformers draws them at random, and only warns.
      raise UserError(
          f'--detector={name} lacks {len(loaded["missing_keys"])} weights, {min(loaded["missing_keys"])} first: fetch '
          'it again, or choose another model')
    labels = model.config.id2label
    self._persons = [index for index, label in labels.items() if str(label).lower() == 'person']
    if not self._persons:
      known = ', '.join(map(str, list(labels.values())[:3]))
      raise UserError(f"--detector={name} has no class 'person' (it has {known}...): choose a model trained on COCO")
    self._device = 'cuda' if torch.cuda.is_available() else 'cpu'
    self._model = model.eval().to(self._device)
    with storage.parsing(name, 'fetch it again, or choose another model'):  # Some settings are only read by its use.
      self([Image.new('RGB', (64, 64))])

  def __call__(self, images: list[Image.Image]) -> list[np.ndarray]:
    """The boxes of images, as `Detector` says."""
    if getattr(self._processor, 'do_pad', False):  # One by one: padding would make boxes depend on the batch.
      return [boxes_Nx5 for image in images for boxes_Nx5 in self._detect([image])]
    return self._detect(images)

  def _detect(self, images: list[Image.Image]) -> list[np.ndarray]:
    import torch

    with torch.inference_mode():
      outputs = self._model(**self._processor(images=images, return_tensors='pt').to(self._device))
    sizes = [(image.height, image.width) for image in images]
    results = self._processor.post_process_object_detection(outputs, threshold=FLOOR, target_sizes=sizes)
    found = []
    for logits, result in zip(outputs.logits, results):
      boxes_Nx5 = torch.cat([result['boxes'], result['scores'][:, None]], dim=1).double().cpu().numpy()
      boxes_Nx5 = boxes_Nx5[np.isin(result['labels'].cpu().numpy(), self._persons)]
      found.append(_BROKEN if logits.isnan().any() else boxes_Nx5)
    return found


class Yolox:
  """A YOLOX file as its authors' `tools/export_onnx.py` writes it, run as their ONNX demo runs it (Ge et al., 2021).

  Its input is (1, 3, H, W): BGR, 0-255, the image scaled to fit into the upper left corner, 114 elsewhere. Its output
  is (1, N, C): for each cell of strides 8, 16 and 32 the offset of a box's centre and the logarithm of its sides, both
  in cells; the objectness; then the classes, person first as in COCO. Unlike the demo's, a score is that of 'person'
  even if another class scores higher. Of boxes that overlap by more than 0.45 (intersection over union) the surest
  stays.

  Args:
    path: the .onnx file, of YOLOX 0.1.1 or later (models before took normalised RGB).

  Raises:
    UserError: onnxruntime or OpenCV is not installed; the file does not load, or is no such export.
  """

  _STRIDES = (8, 16, 32)
  _PADDING = 114
  _MAX_OVERLAP = 0.45
  _MAX_LOG_SIDE = 12  # e^12 cells are more than any image's side: larger values are pixels, not logarithms.

  def __init__(self, path: str):
    try:
      import cv2  # noqa: F401  # Used on every image: fail early without it.
      import onnxruntime
    except ImportError as error:
      raise UserError(f"--detector={path} needs onnxruntime and OpenCV: pip install 'uniemox_jax[detect]'") from error
    usable = set(onnxruntime.get_available_providers())
    providers = [name for name in ('CUDAExecutionProvider', 'CPUExecutionProvider') if name in usable]
    try:
      self._session = onnxruntime.InferenceSession(path, providers=providers)
    except Exception as error:  # onnxruntime's errors share no other base.
      raise UserError(f'--detector={path} does not load as an ONNX file: {first_line(error)}') from error
    self._path = path
    self._input = self._session.get_inputs()[0].name
    taken, given = (ends[0].shape for ends in (self._session.get_inputs(), self._session.get_outputs()))
    whole = len(taken) == 4 and all(isinstance(side, int) and side % self._STRIDES[-1] == 0 for side in taken[2:])
    self._cells_Nx3 = self._cells(*taken[2:]) if whole else np.zeros((0, 3))
    if len(given) != 3 or given[1] != len(self._cells_Nx3) or given[1] == 0:
      raise UserError(
          f'--detector={path} takes {taken} and gives {given}, not (1, 3, H, W) and (1, cells of strides 8, 16 and 32, '
          "85): export it with YOLOX's tools/export_onnx.py")
    self._height, self._width = taken[2:]

  def _cells(self, height: int, width: int) -> np.ndarray:
    """Column, row and stride of every cell, (N, 3), in the order of the output."""
    grids = [(np.indices((height // stride, width // stride)), stride) for stride in self._STRIDES]
    return np.concatenate([
        np.stack([columns, rows, np.full_like(rows, stride)], axis=-1).reshape(-1, 3)
        for (rows, columns), stride in grids])

  def __call__(self, image: Image.Image) -> np.ndarray:
    """The boxes of one image, as `Detector` says."""
    import cv2

    scale = min(self._height / image.height, self._width / image.width)
    inner = max(1, int(image.width * scale)), max(1, int(image.height * scale))
    canvas_HxWx3 = np.full((self._height, self._width, 3), self._PADDING, np.uint8)
    bgr_HxWx3 = np.ascontiguousarray(np.asarray(image)[:, :, ::-1])
    canvas_HxWx3[:inner[1], :inner[0]] = cv2.resize(bgr_HxWx3, inner, interpolation=cv2.INTER_LINEAR)
    batch_1x3xHxW = canvas_HxWx3.transpose(2, 0, 1)[None].astype(np.float32)
    with storage.parsing(self._path, 'export it again'):
      raw_NxC = self._session.run(None, {self._input: batch_1x3xHxW})[0][0].astype(np.float64)
    if np.isnan(raw_NxC).any():
      return _BROKEN
    if raw_NxC[:, 2:4].max() > self._MAX_LOG_SIDE:
      raise UserError(f'--detector={self._path} was exported with --decode_in_inference: export it without')
    strides_Nx1 = self._cells_Nx3[:, 2:]
    sides_Nx2 = np.exp(raw_NxC[:, 2:4]) * strides_Nx1
    corners_Nx2 = (raw_NxC[:, :2] + self._cells_Nx3[:, :2]) * strides_Nx1 - sides_Nx2 / 2
    scores_N = raw_NxC[:, 4] * raw_NxC[:, 5]
    kept = cv2.dnn.NMSBoxes(np.hstack([corners_Nx2, sides_Nx2]).tolist(), scores_N.tolist(), FLOOR, self._MAX_OVERLAP)
    boxes_Nx4 = np.hstack([corners_Nx2, corners_Nx2 + sides_Nx2]) / scale
    return np.column_stack([boxes_Nx4, scores_N])[np.asarray(kept, int)]


class Hog:
  """OpenCV's people detector (Dalal and Triggs, CVPR 2005). It needs no download, but is weak (docs/person_boxes.md).

  Its linear SVM gives a margin, not a probability: the score is 1 / (1 + exp(-margin)), so that 0.5 is where the SVM
  itself decides, and no box scores less. Settings, and the person's place in a window, are those of OpenCV's own
  sample, peopledetect.cpp.

  Raises:
    UserError: OpenCV is not installed, or has no such detector.
  """

  _SHORT_SIDE, _LONG_SIDE = 384, 4096  # The smallest person it sees is 96 pixels tall: a quarter of the image.
  _INNER = np.array([0.1, 0.07, 0.8, 0.8])  # Left, top, width and height of the person in a window.

  def __init__(self) -> None:
    try:
      import cv2
    except ImportError as error:
      raise UserError("--detector=hog needs OpenCV: pip install 'uniemox_jax[detect]'") from error
    if not hasattr(cv2, 'HOGDescriptor'):
      raise UserError(
          f'--detector=hog: OpenCV {cv2.__version__} has no HOG detector, which moved to contrib in version 5: '
          "pip install 'opencv-python-headless<5', or choose another --detector")
    self._hog = cv2.HOGDescriptor()
    self._hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())  # type: ignore[attr-defined]

  def __call__(self, image: Image.Image) -> np.ndarray:
    """The boxes of one image, as `Detector` says."""
    scale = min(self._SHORT_SIDE / min(image.size), self._LONG_SIDE / max(image.size))
    width, height = (round(side * scale) for side in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    bgr_HxWx3 = np.ascontiguousarray(np.asarray(resized)[:, :, ::-1])
    windows, margins = self._hog.detectMultiScale(bgr_HxWx3, winStride=(8, 8), padding=(32, 32), scale=1.05)
    windows_Nx4 = np.reshape(windows, (-1, 4)).astype(np.float64)  # Left, top, width, height; () for none.
    sides_Nx2 = windows_Nx4[:, 2:] * self._INNER[2:]
    corners_Nx2 = windows_Nx4[:, :2] + windows_Nx4[:, 2:] * self._INNER[:2]
    scores_N = 1 / (1 + np.exp(-np.reshape(margins, -1).astype(np.float64)))
    return np.column_stack([np.hstack([corners_Nx2, corners_Nx2 + sides_Nx2]) / scale, scores_N])
