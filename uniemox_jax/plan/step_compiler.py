"""Compiles a config's real training step for devices that need not exist: no data, no weights, nothing computed.

`plan` starts `python -m uniemox_jax.plan.step_compiler FILE` in a process of its own, since a compiler may crash. It
reads a config and a topology from FILE, and replaces them with what it measured.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import importlib.metadata
import math
import os
import re
import sys
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from data_pipelines.errors import UserError
from data_pipelines.storage import read_json, write_json
from uniemox_jax.models.classifier import STREAMS, Classifier
from uniemox_jax.models.uniemox import UniEmoX
from uniemox_jax.plan.collectives import read_collectives
from uniemox_jax.plan.compiler_clock import summarise_cycles
from uniemox_jax.plan.gpu_cards import Gpus, gpu_devices, parse_topology
from uniemox_jax.plan.kernel_schedules import Kernel, read_schedules
from uniemox_jax.runtime import hardware, sharding
from uniemox_jax.runtime.hardware import Slice
from uniemox_jax.teacher.load_teachers import names_of
from uniemox_jax.teacher.step_teacher import Teacher, join_teachers, make_teacher, teacher_shardings, without_tower
from uniemox_jax.train import loop, setup
from uniemox_jax.train.config import AUTO, FinetuneConfig, PretrainConfig, parse_trainable
from uniemox_jax.train.flops import ExampleWork, finetune_work
from uniemox_jax.train.optimizer import make_optimizer
from uniemox_jax.train.state import TrainState, abstract_model, builder, state_template
from uniemox_jax.train.steps import Step, make_finetune_step, make_pretrain_step

STEPS_PER_EPOCH = 1000
"""The assumed steps of an epoch. Only constants in the learning rate's schedule depend on it, never the program."""
CLASSES = 8
"""The assumed classes of a fine-tuned dataset: emotion data sets have 6 to 26, and the head is a few thousandths of any
model."""


class Program(NamedTuple):
  """A step, its arguments as shapes with shardings, and the work of one example by formula."""

  step: Step
  state: TrainState
  frozen: Any
  batch: dict[str, jax.ShapeDtypeStruct]
  mesh: Mesh
  work: ExampleWork


def _batch(config: PretrainConfig | FinetuneConfig, mesh: Mesh, views: Sequence[str],
           **others: tuple[Any, ...]) -> dict[str, jax.ShapeDtypeStruct]:
  """A batch of `views`, or of their crops, and of others given by the dtype and the shape of one example."""
  side = config.crop_canvas or config.model.image_size
  fields: dict[str, tuple[Any, ...]] = dict.fromkeys(views, (jnp.uint8, side, side, 3)) | others
  if config.crop_canvas:
    fields |= dict.fromkeys([f'{name}_box' for name in views], (jnp.float32, 4)) | {'flip': (jnp.bool_,)}
  return {
      name: jax.ShapeDtypeStruct((config.batch_size, *shape), dtype, sharding=NamedSharding(mesh, sharding.BATCH))
      for name, (dtype, *shape) in fields.items()}


def _augmentation(config: FinetuneConfig, views: Sequence[str]) -> dict[str, tuple[Any, ...]]:
  """The fields of `augment_views`, as `_batch` takes others; none where the host augments."""
  fields: dict[str, tuple[Any, ...]] = {}
  if config.crop_canvas and config.augment.randaugment:
    fields |= {'operation': (jnp.int32, 2), 'amount': (jnp.float32, 2)}
  if config.crop_canvas and config.augment.erase:
    fields |= {'erased': (jnp.int32, 4), 'noise': (jnp.uint32, 4)}
  return {f'{view}_{field}': shape for view in views for field, shape in fields.items()}


def _pretraining(config: PretrainConfig, mesh: Mesh) -> Program:
  dtype = jnp.dtype(config.dtype)
  teacher: Teacher | None = None
  frozen: Any = ()
  embeddings = {}
  if config.loss.semantic:
    made = make_teacher(setup.clip_of_shape(config.teacher_shape), dtype, attention=config.attention)
    teacher, frozen = join_teachers([made] * len(names_of(config.teacher)))  # each is taken to be of this shape
    if config.loss.contrastive:
      embeddings['text'] = (jnp.float32, teacher.width)
    if config.teacher_views:
      frozen = without_tower(frozen)
      embeddings['image'] = (jnp.float32, teacher.width)
    frozen = jax.tree.map(
        lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), frozen,
        teacher_shardings(frozen, mesh, config.teacher_sharded))
  build = builder(UniEmoX, dtype=dtype, **setup.model_arguments(config.model, config.loss, teacher))
  student = abstract_model(build)
  optimizer = make_optimizer(config, STEPS_PER_EPOCH)
  return Program(
      make_pretrain_step(
          setup.step_graph(student, config.attention, mesh.devices.flat[0]), teacher, optimizer, config.loss),
      state_template(build, optimizer.tx, mesh, averaged=optimizer.ema_decay > 0), frozen,
      _batch(config, mesh, ('scene', 'person')[:student.view_count], **embeddings), mesh,
      setup.example_work(config, student, teacher))


def _finetuning(config: FinetuneConfig, mesh: Mesh) -> Program:
  arguments = dataclasses.asdict(config.model) | {'classes': CLASSES, 'streams': config.streams}
  build = builder(Classifier, dtype=jnp.dtype(config.dtype), **arguments)
  classifier = abstract_model(build)
  optimizer = make_optimizer(config, STEPS_PER_EPOCH)
  views = STREAMS[config.streams]
  batch = _batch(config, mesh, views, label=(jnp.int32,), **_augmentation(config, views))
  return Program(
      make_finetune_step(
          setup.step_graph(classifier, config.attention, mesh.devices.flat[0]), optimizer, config.regularisation),
      state_template(build, optimizer.tx, mesh, averaged=optimizer.ema_decay > 0), (), batch, mesh,
      finetune_work(classifier))


def training_program(config: ConfigDict, devices: Sequence[jax.Device]) -> Program:
  """Makes the step that `pretrain` or `finetune` runs with this config on these devices.

  Raises:
    UserError: the config has a mistake or is another verb's, or a mesh or batch does not fit the devices.
  """
  checked = parse_trainable(config)
  if checked.dtype == AUTO:
    checked = dataclasses.replace(checked, dtype=hardware.best_dtype(devices[0]))
  mesh = sharding.make_mesh(checked.mesh.data, checked.mesh.fsdp, devices)
  sharding.check_batch(checked.batch_size, mesh, checked.accum_steps)
  return _pretraining(checked, mesh) if isinstance(checked, PretrainConfig) else _finetuning(checked, mesh)


def compile_program(program: Program) -> jax.stages.Compiled:
  """Compiles the program as `loop.train` does."""
  shape = jax.eval_shape(lambda: jax.random.key(0))
  key = jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=NamedSharding(program.mesh, P()))
  with jax.set_mesh(program.mesh):
    return loop.jit_step(program.step, program.state).lower(program.state, program.frozen, program.batch, key).compile()


def device_bytes(tree: Any) -> int:
  """The bytes that one device holds of a tree of sharded shapes."""
  return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def sizes(program: Program) -> dict[str, int]:
  """Returns what is known before compiling: bytes per device of the step's inputs, and the work of one example."""
  work = program.work
  params = sum(leaf.size for leaf in jax.tree.leaves(program.state.params))
  return {
      'params_bytes_per_device': device_bytes(program.state.params),
      'optimizer_bytes_per_device': device_bytes((program.state.opt_state, program.state.average)),
      'teacher_bytes_per_device': device_bytes(program.frozen), 'batch_bytes_per_device': device_bytes(program.batch),
      'params': params, 'student_flops_per_example': 3 * work.student.flops,
      'teacher_flops_per_example': work.teacher.flops, 'activation_values_per_example': work.training.values}


def measure_program(compiled: jax.stages.Compiled, schedules: Mapping[Kernel, int] | None = None) -> dict[str, Any]:
  """Measures a program that fits: the memory of one device, what it sends to the others, and its compiler's cycles."""
  memory, text = compiled.memory_analysis(), compiled.as_text()
  assert memory is not None and text is not None  # every compiler that a plan asks gives both
  total = (
      memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes +
      memory.temp_size_in_bytes + memory.generated_code_size_in_bytes)
  return {
      'fits': True, 'hbm_bytes_per_device': total, 'temporary_bytes_per_device': memory.temp_size_in_bytes,
      'collectives': [one._asdict() for one in read_collectives(text)],
      'compiler_clock': summarise_cycles(text, schedules)}


def out_of_memory(message: str) -> dict[str, Any] | None:
  """The memory that a refused program needs, if the compiler's message names it; None for another error."""
  if 'RESOURCE_EXHAUSTED' not in message:
    return None
  units = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}
  needed = [
      round(float(number) * units[unit])
      for number, unit in re.findall(r'(?:required|Used|Program|temporaries)\D{0,40}?([\d.]+)([KMGT]?)\b', message)]
  return {
      'fits': False, 'hbm_bytes_per_device': max(needed, default=None), 'collectives': [], 'compiler_clock': None,
      'message': message.split(' HLO module')[0].splitlines()[0]}


def refusal(message: str, where: Slice | Gpus) -> dict[str, Any]:
  """Makes the answer for a program that the compiler does not compile.

  Raises:
    UserError: the reason is another than memory.
  """
  if (refused := out_of_memory(message)) is not None:
    return refused
  raise UserError(f'the compiler of {where.name} failed: {message.splitlines()[0]}')


def main(path: str) -> None:
  """Replaces the request in the file by the answer: `sizes` and `measure_program`, or {'error': one line}."""
  request = read_json(path)
  where = parse_topology(request['topology'])
  try:
    devices = gpu_devices(where) if isinstance(where, Gpus) else hardware.slice_devices(where)
    program = training_program(ConfigDict(request['config']), devices)
    answer: dict[str, Any] = sizes(program) | {
        'versions': {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', where.compiler)}}
    try:
      compiled = compile_program(program)
      answer |= measure_program(compiled, read_schedules(request['schedules']))
      if isinstance(where, Gpus):  # Its compiler refuses nothing.
        answer['fits'] = where.fits(answer['hbm_bytes_per_device'])
    except jax.errors.JaxRuntimeError as error:
      answer |= refusal(str(error), where)
  except UserError as error:
    answer = {'error': str(error)}
  write_json(path, answer)


def _end_with_parent() -> None:
  """Ends this process when the other end of its standard input is closed; nothing is ever written there."""
  os.read(0, 1)
  os._exit(1)


if __name__ == '__main__':
  threading.Thread(target=_end_with_parent, daemon=True).start()
  main(sys.argv[1])
