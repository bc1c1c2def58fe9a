"""Makes ONNX graphs of our ViTs, node by node as `models.vit`, `models.classifier`, `models.clip` and `models.siglip`
compute them.

The exporters for Flax do not fit: jax2onnx needs an older Orbax, and tf2onnx does not read the StableHLO of jax2tf.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

OPSET = 20
"""The first operator set with GELU as one node; onnxruntime reads it from version 1.17 on."""
IMAGES, LOGITS, TOKENS = 'images', 'logits', 'tokens'
"""The names of the graph's input, and of its output: a recogniser's, or an encoder's."""

Params = Mapping[str, Any]


class Graph:
  """The nodes in order, and the weights that they read. Methods return the name of a node's output."""

  def __init__(self) -> None:
    self.nodes: list[Any] = []
    self.weights: list[Any] = []

  def weight(self, name: str, values: ArrayLike) -> str:
    """Adds weights: float32, or integers as int64."""
    from onnx import numpy_helper
    array = np.asarray(values)
    array = array.astype(np.float32 if array.dtype.kind == 'f' else np.int64)
    self.weights.append(numpy_helper.from_array(array, name))
    return name

  def add(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
    """Adds a node with one output, which has the node's name."""
    from onnx import helper
    self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
    return name

  def reshape(self, name: str, values: str, *shape: int) -> str:
    """Adds a node that gives `values` another shape; -1 stands for what is left, which is the batch."""
    return self.add('Reshape', name, values, self.weight(f'{name}.shape', shape))

  def linear(self, name: str, values: str, params: Params) -> str:
    """Adds an `nnx.Linear`; with a bias, for rows (N, D). As one node it is a single kernel of onnxruntime, in 8 bits
    too."""
    kernel = self.weight(f'{name}.kernel', params['kernel'])
    if 'bias' not in params:
      return self.add('MatMul', name, values, kernel)
    return self.add('Gemm', name, values, kernel, self.weight(f'{name}.bias', params['bias']))

  def layer_norm(self, name: str, values: str, params: Params, epsilon: float) -> str:
    """Adds a `layers.LayerNorm`."""
    parts = [self.weight(f'{name}.{part}', params[part]) for part in ('scale', 'bias')]
    return self.add('LayerNormalization', name, values, *parts, axis=-1, epsilon=epsilon)

  def activation(self, name: str, values: str, activation: str) -> str:
    """Adds one of `layers.ACTIVATIONS`."""
    if activation != 'quick_gelu':
      return self.add('Gelu', name, values, approximate='none' if activation == 'gelu' else 'tanh')
    factor = self.weight(f'{name}.factor', 1.702)
    gate = self.add('Sigmoid', f'{name}.gate', self.add('Mul', f'{name}.scaled', values, factor))
    return self.add('Mul', name, values, gate)


def classifier_graph(model: Mapping[str, Any], params: Params) -> Graph:
  """Makes the graph of a `models.classifier.Classifier`, from its arguments and parameters.

  It turns `images` (B, S, S, 3), or (B, 2, S, S, 3) of scene and person, into `logits` (B, classes).
  """
  graph = Graph()
  size, width, pooling = model['image_size'], model['width'], model.get('pooling', 'mean')
  images = IMAGES
  if model.get('streams', 'scene') != 'scene':
    images = graph.reshape('views', images, -1, size, size, 3)
  tokens = _encoder(graph, images, model, params['encoder'])
  epsilon = model.get('norm_eps', 1e-6)
  if pooling == 'mean_of_normed':
    tokens = graph.layer_norm('fc_norm', tokens, params['fc_norm'], epsilon)
  if pooling == 'class_token':
    pooled = _class_token(graph, tokens)
  else:
    bounds = [graph.weight(f'patches.{name}', [value]) for name, value in (('start', 1), ('end', 2**31), ('axis', 1))]
    patches = graph.add('Slice', 'patches', tokens, *bounds)
    pooled = graph.add('ReduceMean', 'pooled', patches, graph.weight('pooled.axis', [1]), keepdims=0)
  if pooling != 'mean_of_normed':
    pooled = graph.layer_norm('fc_norm', pooled, params['fc_norm'], epsilon)
  if images != IMAGES:
    pooled = graph.reshape('features', pooled, -1, 2 * width)
  graph.add('Identity', LOGITS, graph.linear('head', pooled, params['head']))
  return graph


def encoder_graph(model: Mapping[str, Any], params: Params) -> Graph:
  """Makes the graph of any student's encoder, from `images` (B, S, S, 3) to `tokens` (B, 1 + L, D)."""
  graph = Graph()
  graph.add('Identity', TOKENS, _encoder(graph, IMAGES, model, params['encoder']))
  return graph


def zero_shot_graph(config: Any, params: Params, *, classes: int, dimensions: int, scale: float) -> Graph:
  """Makes the graph of a `models.zero_shot_classifier.ZeroShotClassifier` of a CLIP or SigLIP with this config.

  It turns `images` (B, S, S, 3) into `logits` (B, classes + dimensions + own texts).
  """
  graph = Graph()
  tower = params['model']['vision']
  model = {
      'image_size': config.image_size, 'patch_size': config.patch_size, 'width': config.vision.width,
      'heads': config.vision.heads, 'norm_eps': config.vision.norm_eps, 'activation': config.vision.activation}
  embedding = (_siglip_embedding if 'pool' in tower else _clip_embedding)(graph, model, tower)
  axis = graph.weight('length.axis', [-1])
  squares = graph.add('ReduceSumSquare', 'squares', embedding, axis, keepdims=1)
  length = graph.add('Sqrt', 'length', graph.add('Add', 'squares.safe', squares, graph.weight('tiny', 1e-12)))
  unit = graph.add('Div', 'embedding', embedding, length)
  texts = np.asarray(params['texts'])
  poles = texts[classes:classes + 2 * dimensions]
  # A difference of cosines is the cosine with the difference; the temperature goes into the texts too.
  parts = {
      'classes': scale * texts[:classes], 'dimensions': scale / 2 * (poles[0::2] - poles[1::2]),
      'texts': texts[classes + 2 * dimensions:]}
  columns = {
      name: graph.add('MatMul', name, unit, graph.weight(f'{name}.embeddings', part.T))
      for name, part in parts.items()
      if len(part)}
  if 'dimensions' in columns:
    columns['dimensions'] = graph.add('Tanh', 'dimensions.range', columns['dimensions'])
  graph.add('Concat', LOGITS, *columns.values(), axis=-1)
  return graph


def _clip_embedding(graph: Graph, model: Mapping[str, Any], tower: Params) -> str:
  """`clip.ImageTower`: the projected class token, (B, E)."""
  encoder_params = {
      'patch_embed': tower['patch_embed'], 'cls_token': tower['class_embedding'][None], 'positions': tower['positions'],
      'pre_norm': tower['pre_norm'], 'blocks': tower['blocks']}
  cls = _class_token(graph, _encoder(graph, IMAGES, model, encoder_params))
  return graph.linear(
      'project', graph.layer_norm('post_norm', cls, tower['post_norm'], model['norm_eps']), tower['project'])


def _siglip_embedding(graph: Graph, model: Mapping[str, Any], tower: Params) -> str:
  """`siglip.SiglipImageTower`: what its probe takes from all tokens, (B, E)."""
  tokens = graph.reshape('pool.tokens', _encoder(graph, IMAGES, model, tower), -1, model['width'])
  pool, width, heads = tower['pool'], model['width'], model['heads']
  kernel, bias = (np.asarray(pool['qkv'][part]) for part in ('kernel', 'bias'))
  query = (np.asarray(pool['probe']) @ kernel[:, :width] + bias[:width]) * (width // heads)**-0.5
  both = graph.linear('pool.both', tokens, {'kernel': kernel[:, width:], 'bias': bias[width:]})
  split = graph.reshape('pool.split', both, -1, _patches(model), 2, heads, width // heads)
  query_name = graph.weight('pool.query', query.reshape(1, heads, 1, width // heads))
  mixed = _mix(graph, 'pool', query_name, *_parts(graph, 'pool', split, {'key': [0, 2, 3, 1], 'value': [0, 2, 1, 3]}))
  pooled = graph.linear('pool.out', graph.reshape('pool.joined', mixed, -1, width), pool['out'])
  normed = graph.layer_norm('pool.norm', pooled, pool['norm'], model['norm_eps'])
  return graph.add('Add', 'pool.added', pooled, _mlp(graph, 'pool.mlp', normed, pool['mlp'], model))


def _class_token(graph: Graph, tokens: str) -> str:
  return graph.add('Gather', 'class_token', tokens, graph.weight('class_token.place', 0), axis=1)


def _patches(model: Mapping[str, Any]) -> int:
  return (model['image_size'] // model['patch_size'])**2


def _encoder(graph: Graph, images: str, model: Mapping[str, Any], params: Params) -> str:
  """`vit.ViT` without masking; its norms and its class token are those that `params` has."""
  size, patch, width = model['image_size'], model['patch_size'], model['width']
  side, epsilon = size // patch, model.get('norm_eps', 1e-6)
  if side * patch < size:  # a SigLIP drops what is left beside whole patches
    bounds = {'start': [0, 0], 'end': [side * patch] * 2, 'axis': [1, 2]}
    images = graph.add('Slice', 'seen', images, *(graph.weight(f'seen.{name}', at) for name, at in bounds.items()))
  grid = graph.reshape('patches.grid', images, -1, side, patch, side, patch, 3)
  rows = graph.add('Transpose', 'patches.rows', grid, perm=[0, 1, 3, 2, 4, 5])
  pixels = graph.reshape('patches.pixels', rows, -1, side * side, 3 * patch**2)
  table, bias = np.array(params['positions'], np.float32), params['patch_embed'].get('bias', np.float32(0))
  length = len(table)
  table[length - side * side:] += bias
  if 'cls_token' in params:
    # An empty patch in front makes room for it, whatever the batch. So the bias is added with the positions.
    pixels = graph.add('Pad', 'patches.room', pixels, graph.weight('patches.pads', [0, 1, 0, 0, 0, 0]))
    table[0] += params['cls_token'][0]
  embedded = graph.linear('patch_embed', pixels, {'kernel': params['patch_embed']['kernel']})
  tokens = graph.add('Add', 'embeddings', embedded, graph.weight('positions', table))
  if 'pre_norm' in params:
    tokens = graph.layer_norm('pre_norm', tokens, params['pre_norm'], epsilon)
  tokens = graph.reshape('rows', tokens, -1, width)
  layers = params['blocks']['layers']
  for number in range(len(layers['norm1']['scale'])):
    tokens = _block(graph, f'blocks.{number}', tokens, _layer(layers, number), model, length)
  tokens = graph.reshape('tokens_of_images', tokens, -1, length, width)
  return graph.layer_norm('norm', tokens, params['norm'], epsilon) if 'norm' in params else tokens


def _layer(layers: Params, number: int) -> dict[str, Any]:
  """One layer's part of stacked parameters."""
  return {
      name: _layer(part, number) if isinstance(part, Mapping) else np.asarray(part[number])
      for name, part in layers.items()}


def _block(graph: Graph, name: str, tokens: str, params: Params, model: Mapping[str, Any], length: int) -> str:
  epsilon = model.get('norm_eps', 1e-6)
  normed = graph.layer_norm(f'{name}.norm1', tokens, params['norm1'], epsilon)
  mixed = _attention(graph, f'{name}.attention', normed, params['attention'], model, length)
  tokens = graph.add('Add', f'{name}.attended', tokens, mixed)
  normed = graph.layer_norm(f'{name}.norm2', tokens, params['norm2'], epsilon)
  return graph.add('Add', name, tokens, _mlp(graph, f'{name}.mlp', normed, params['mlp'], model))


def _mlp(graph: Graph, name: str, values: str, params: Params, model: Mapping[str, Any]) -> str:
  hidden = graph.activation(
      f'{name}.hidden', graph.linear(f'{name}.up', values, params['up']), model.get('activation', 'gelu'))
  return graph.linear(f'{name}.down', hidden, params['down'])


def _attention(graph: Graph, name: str, tokens: str, params: Params, model: Mapping[str, Any], length: int) -> str:
  """`layers.Attention`, whose scale goes into the queries' weights."""
  width, heads = model['width'], model['heads']
  scales = np.repeat(np.array([(width // heads)**-0.5, 1, 1], np.float32), width)
  qkv = graph.linear(f'{name}.qkv', tokens, {part: values * scales for part, values in params['qkv'].items()})
  split = graph.reshape(f'{name}.split', qkv, -1, length, 3, heads, width // heads)
  axes = {'query': [0, 2, 1, 3], 'key': [0, 2, 3, 1], 'value': [0, 2, 1, 3]}
  mixed = _mix(graph, name, *_parts(graph, name, split, axes))
  return graph.linear(f'{name}.out', graph.reshape(f'{name}.joined', mixed, -1, width), params['out'])


def _parts(graph: Graph, name: str, split: str, axes: Mapping[str, list[int]]) -> list[str]:
  """The parts that lie along the third axis of (B, L, parts, H, D / H), by name, each with its axes in an order."""
  parts = []
  for place, (part, perm) in enumerate(axes.items()):
    taken = graph.add('Gather', f'{name}.{part}.taken', split, graph.weight(f'{name}.{part}.place', place), axis=2)
    parts.append(graph.add('Transpose', f'{name}.{part}', taken, perm=perm))
  return parts


def _mix(graph: Graph, name: str, query: str, key: str, value: str) -> str:
  """Values mixed by attention, (B, queries, H, D / H)."""
  shares = graph.add('Softmax', f'{name}.shares', graph.add('MatMul', f'{name}.scores', query, key), axis=-1)
  return graph.add('Transpose', f'{name}.mixed', graph.add('MatMul', f'{name}.heads', shares, value), perm=[0, 2, 1, 3])


def to_model(graph: Graph, input_shape: Sequence[int], output_shape: Sequence[int]) -> Any:
  """Makes the `onnx.ModelProto` of a graph.

  Args:
    graph: the graph, whose only output is the last node's.
    input_shape, output_shape: the shapes without the batch, which is free.
  """
  from onnx import TensorProto, helper
  name = graph.nodes[-1].output[0]
  ends = [
      helper.make_tensor_value_info(end, TensorProto.FLOAT, ['batch', *shape])
      for end, shape in ((IMAGES, input_shape), (name, output_shape))]
  body = helper.make_graph(graph.nodes, 'uniemox', ends[:1], ends[1:], graph.weights)
  opsets = [helper.make_opsetid('', OPSET)]
  return helper.make_model(
      body, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets), producer_name='uniemox_jax')
