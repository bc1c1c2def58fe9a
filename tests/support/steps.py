"""Steps with the options of optimizer and losses given side by side."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
import optax

from uniemox_jax.objectives.tasks import Task
from uniemox_jax.teacher.step_teacher import Teacher
from uniemox_jax.train.optimizer import Optimizer, Schedule
from uniemox_jax.train.settings import LossSettings, RegularisationSettings
from uniemox_jax.train.steps import Step, make_finetune_step, make_pretrain_step


def _divided(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  of_optimizer = {name: value for name, value in options.items() if name in Optimizer._fields}
  return of_optimizer, {name: value for name, value in options.items() if name not in of_optimizer}


def pretrain_step(
    student: nnx.GraphDef, teacher: Teacher | None, tx: optax.GradientTransformation, schedule: Schedule,
    **options: Any) -> Step:
  of_optimizer, settings = _divided(options)
  return make_pretrain_step(student, teacher, Optimizer(tx, schedule, **of_optimizer), LossSettings(**settings))


def finetune_step(
    classifier: nnx.GraphDef, tx: optax.GradientTransformation, tasks: Sequence[Task] | None = None,
    **options: Any) -> Step:
  of_optimizer, settings = _divided(options)
  optimizer = Optimizer(tx, lambda step: 1e-3, **of_optimizer)
  return make_finetune_step(classifier, optimizer, RegularisationSettings(**settings), tasks)
