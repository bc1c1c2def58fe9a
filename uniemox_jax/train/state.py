"""The state that training changes: step, parameters, optimizer state. It is sharded from the start."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from flax import nnx, traverse_util
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from data_pipelines.errors import UserError
from uniemox_jax.runtime.sharding import tree_shardings


class TrainState(NamedTuple):
  """The state. step: int32 scalar, the updates done. params: nested dict of float32 arrays. opt_state: optax's state.
  average: the moving average of `params` (`optimizer.update_average`), or None."""

  step: jax.Array
  params: dict[str, Any]
  opt_state: Any
  average: dict[str, Any] | None = None

  @property
  def evaluated(self) -> dict[str, Any]:
    """The parameters to evaluate and to export: the average if the run keeps one."""
    return self.params if self.average is None else self.average


M = TypeVar('M', bound=nnx.Module)
Build = Callable[[nnx.Rngs], M]


def builder(module: Callable[..., M], **arguments: Any) -> Build[M]:
  """A function from random streams to `module(**arguments)`. It is tried once here, without allocating anything.

  Raises:
    UserError: the module refuses its arguments, which come from the config.
  """

  def build(rngs: nnx.Rngs) -> M:
    return module(**arguments, rngs=rngs)

  try:
    abstract_model(build)
  except ValueError as error:
    raise UserError(f'config.model: {error}') from error
  return build


def abstract_model(build: Build[M]) -> M:
  """The module with shapes in place of parameters."""
  return nnx.eval_shape(lambda: build(nnx.Rngs(0)))


def graphdef_of(build: Build) -> nnx.GraphDef:
  """The static half of a module; `nnx.merge(graphdef, params)` is the module again."""
  return nnx.split(abstract_model(build))[0]


def abstract_params(build: Build) -> dict[str, Any]:
  """Shapes and dtypes of the parameters as a nested dict."""
  return nnx.to_pure_dict(nnx.state(abstract_model(build), nnx.Param))


def initial_params(build: Build, seed: int) -> dict[str, Any]:
  """Draws parameters, a plain nested dict. For large models, call it under jit with shardings."""
  return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(seed)), nnx.Param))


def state_template(build: Build, tx: optax.GradientTransformation, mesh: Mesh, averaged: bool = False) -> TrainState:
  """The state as `jax.ShapeDtypeStruct` with shardings, for creating it, restoring it, and compiling ahead of time.

  If `averaged`, an average is kept beside the parameters, and starts equal to them.
  """
  shapes = jax.eval_shape(lambda: _create(build, tx, 0, {}, averaged))
  return jax.tree.map(
      lambda leaf, to: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=to), shapes, tree_shardings(shapes, mesh))


def create_state(
    template: TrainState, build: Build, tx: optax.GradientTransformation, seed: int,
    loaded: dict[str, Any] | None = None) -> TrainState:
  """Makes the state of `state_template(build, tx, ...)` by a jitted function: no parameter is copied between hosts.

  Parameters in `loaded`, whose paths and shapes are already checked, replace the drawn ones of the same path.
  """
  shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
  with jax.set_mesh(template.step.sharding.mesh):  # type: ignore[attr-defined]  # it is a NamedSharding
    create = jax.jit(
        lambda loaded: _create(build, tx, seed, loaded, template.average is not None), out_shardings=shardings)
    return create(loaded or {})


def _create(
    build: Build, tx: optax.GradientTransformation, seed: int, loaded: dict[str, Any], averaged: bool) -> TrainState:
  flat = traverse_util.flatten_dict(initial_params(build, seed))
  for path, value in traverse_util.flatten_dict(loaded).items():
    flat[path] = jnp.asarray(value, flat[path].dtype)
  params = traverse_util.unflatten_dict(flat)
  return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), params if averaged else None)
