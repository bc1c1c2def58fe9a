"""Every config key does something: one that is unknown, out of range or unused ends in one line, before any work."""

import dataclasses
import importlib

from ml_collections import ConfigDict
import pytest

from data_pipelines.errors import UserError
from uniemox_jax.models import classifier, fusion, layers
from uniemox_jax.objectives.tasks import KINDS
from uniemox_jax.train import config as keys
from uniemox_jax.train.config import CONFIGS, FinetuneConfig, PretrainConfig, config_class
from uniemox_jax.train.run_folder import changed_keys
from uniemox_jax.train.schema import config_dict, parse

SHIPPED = [('pretrain', 'pretrain_emoset_vitl16', ()), ('pretrain', 'pretrain_emoset_vitb16', ()),
           ('pretrain', 'demo', ('pretrain',)), ('finetune', 'finetune', ('emotic',)),
           ('finetune', 'demo', ('finetune',)), ('probe', 'probe', ('fi',)), ('train_clip', 'demo', ('clip',)),
           ('pretrain', 'uniemox_plus_vitb16', ()), ('pretrain', 'uniemox_plus_vitl16', ()),
           ('train_clip', 'hard_world', ('clip',)), ('pretrain', 'hard_world', ('pretrain',)),
           ('pretrain', 'hard_world', ('plus',)), ('finetune', 'hard_world', ('finetune',))]


def changed(kind: type, **values: object) -> ConfigDict:
  config = config_dict(kind)
  config.update_from_flattened_dict({name.replace('__', '.'): value for name, value in values.items()})
  return config


def choices(kind: type, name: str) -> set[str]:
  return set(next(field for field in dataclasses.fields(kind) if field.name == name).metadata['limits']['choices'])


@pytest.mark.parametrize(('verb', 'name', 'arguments'), SHIPPED)
def test_shipped_configs_are_of_their_verb_and_pass(verb, name, arguments):
  config = importlib.import_module(f'configs.{name}').get_config(*arguments)
  assert config_class(config.to_dict()) is CONFIGS[verb]
  assert dataclasses.asdict(parse(CONFIGS[verb], config)) == config.to_dict()


@pytest.mark.parametrize(('values', 'message'), [
    ({'epochs': 0}, "config key 'epochs' is 0: it must be at least 1"),
    ({'loss__form': 'l2'}, "config key 'loss.form' is 'l2': choose cosine or kl"),
    ({'model__mask_ratio': 1.0}, "config key 'model.mask_ratio' is 1.0: it must be above 0 and below 1"),
    ({'optimizer__base_lr': float('nan')}, "config key 'optimizer.base_lr' is nan: it must be above 0"),
    ({'max_gradient_norm': float('inf')}, "config key 'max_gradient_norm' is inf: it must be above 0"),
    ({'loss__negatives': 'local', 'loss__local_batch': 3}, 'batch_size 4096 is not divisible by loss.local_batch 3'),
    ({'loss__local_batch': 8
     }, "config key 'loss.local_batch' is 8 and would do nothing, since loss.negatives is global"),
    ({'loss__contrastive': 0.0, 'loss__form': 'kl'
     }, "'loss.form' is kl and would do nothing, since loss.contrastive is 0"),
    ({'loss__contrastive': 0.0, 'loss__similarity': 0.0, 'model__fusion': 'glu'}, "'model.fusion' is glu and would do"),
    ({'model__fusion_heads': 2}, "'model.fusion_heads' is 2 and would do nothing, since model.fusion is additive"),
    ({'loss__reconstruction': 0.0, 'model__decode': 'both'}, "'model.decode' is both and would do nothing"),
    ({'person_view': 'scene', 'person_jitter': 0.1}, "'person_jitter' is 0.1 and would do nothing"),
    ({'person_view': 'scene', 'loss__teacher_sees': 'both'}, "'loss.teacher_sees' is both and would do nothing"),
    ({'model__fusion': 'none', 'loss__teacher_sees': 'both'
     }, 'since model.fusion is none, and there is no person view'),
    ({'teacher_views': 2, 'loss__teacher_sees': 'both'}, 'teacher_views keeps embeddings of scenes alone'),
    ({'teacher_views_seed': 3}, "'teacher_views_seed' is 3 and would do nothing, since teacher_views is 0"),
    ({'crop_canvas': 223}, 'crop_canvas 223 is less than model.image_size 224'),
    ({'teacher_views': -1}, "config key 'teacher_views' is -1: it must be at least 0"),
    ({'loss__contrastive': 0.0, 'loss__similarity': 0.0, 'loss__reconstruction': 0.0}, 'every loss weight is zero'),])
def test_a_value_that_a_run_cannot_use_is_one_line(values, message):
  with pytest.raises(UserError) as error:
    parse(PretrainConfig, changed(PretrainConfig, **values))
  assert message in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(('config', 'message'), [
    ({'colour': 'blue'}, "config key 'colour' is unknown and would do nothing: remove it; known here: accum_steps,"),
    ({'model': {'colour': 'blue'}}, "config key 'model.colour' is unknown"),
    ({'model': 3}, "config key 'model' is 3: it must be a section with the keys activation, "),
    ({'epochs': 1.5}, "config key 'epochs' is 1.5: it must be of type int"),
    ({'epochs': True}, "config key 'epochs' is True: it must be of type int"),
    ({'data_dir': 7}, "config key 'data_dir' is 7: it must be of type str"),])
def test_a_key_that_is_unknown_or_of_another_type_is_one_line(config, message):
  with pytest.raises(UserError) as error:
    parse(FinetuneConfig, ConfigDict(config))
  assert message in str(error.value) and '\n' not in str(error.value)


def test_a_key_that_is_left_out_has_its_default_and_an_integer_is_a_float_too():
  config = parse(FinetuneConfig, ConfigDict({'ema_decay': 0, 'optimizer': {'base_lr': 1}}))
  assert config == FinetuneConfig(optimizer=dataclasses.replace(FinetuneConfig().optimizer, base_lr=1.0))


def test_a_key_that_a_run_leaves_out_counts_as_its_default_when_it_resumes():
  whole = config_dict(FinetuneConfig).to_dict()
  older = {name: value for name, value in whole.items() if name not in ('streams', 'tasks', 'task_loss')}
  assert not changed_keys(older, whole) and not changed_keys(whole, older)
  assert changed_keys(older, whole | {'streams': 'scene+person', 'data_dir': 'elsewhere'}) == ['streams']


def test_choices_are_those_of_the_code_that_reads_them():
  assert choices(keys.StudentSettings, 'fusion') == {'none', *fusion.FUSIONS}
  assert set(keys.WITH_HEADS) == {name for name, kind in fusion.FUSIONS.items() if kind.uses_heads}
  assert choices(FinetuneConfig, 'streams') == set(classifier.STREAMS)
  assert choices(keys.EncoderSettings, 'activation') == set(layers.ACTIVATIONS) - {'gelu_pytorch_tanh'}  # SigLIP's
  assert choices(keys.EncoderSettings, 'remat') == {'none', *layers.REMAT_POLICIES}
  for name in ('labels', 'vad'):
    assert choices(keys.TaskLossSettings, f'{name}_form') == set(KINDS[name].losses)
  assert {field.name for field in dataclasses.fields(keys.TaskLossSettings)
         } == {*KINDS, *(option for kind in KINDS.values() for option in kind.options)}
