"""All kinds of files that a verb reads, by name: what makes its `Subject` in two worlds.

The second world has other files of the same kinds.
"""

from collections.abc import Callable
import functools

from tests.corruption import data_subjects, run_subjects, weight_subjects
from tests.corruption.subject import Subject
from tests.corruption.world import World

_of = functools.partial
_records, _raw, _table = data_subjects.records, data_subjects.raw, run_subjects.table
_weights, _export, _checkpoint = weight_subjects.weights, weight_subjects.export, weight_subjects.checkpoint

CHEAP: dict[str, Callable[[World, World], Subject]] = {
    'records of emo8': _of(_records, dataset='emo8'),
    'records of emotion6': _of(_records, dataset='emotion6'),
    'records of an earlier version': data_subjects.old_records,
    'raw emoset': _of(_raw, dataset='emoset', patterns=('*.json', 'annotation/*/*.json', 'person_boxes.csv')),
    'raw emotic': _of(_raw, dataset='emotic', patterns=('*.csv', 'provenance.json')),
    'raw emotion6': _of(_raw, dataset='emotion6', patterns=('ground_truth.txt',)),
    'raw emo8': _of(_raw, dataset='emo8', patterns=('train/*/*.jpg', 'person_boxes.csv')),
    'EMOTIC .mat': data_subjects.emotic_mat,
    'person_boxes.csv': data_subjects.boxes,
    'progress of person_boxes': data_subjects.progress,
    'detector .onnx': data_subjects.detector,
    'list of images': data_subjects.paths_list,
    'images of predict': data_subjects.images,
    'table of predict, csv': _of(_table, form='csv'),
    'table of predict, jsonl': _of(_table, form='jsonl'),
    'label map': run_subjects.label_map,
    'prompts': run_subjects.prompts,
    'config file': run_subjects.config_file,
    'config.json, inputs.json': run_subjects.kept_config,
    'metrics.jsonl': run_subjects.metrics,
    'stages.json': run_subjects.stages,
    'look.json': run_subjects.look,
    'results of compare': run_subjects.comparison,
    'teacher folder': weight_subjects.teacher,
    "another library's teacher": weight_subjects.foreign_teacher,
    'weights: safetensors': _of(_weights, form='w.safetensors'),
    'weights: .pth': _of(_weights, form='w.pth'),
    'weights: .pth before torch 1.6': _of(_weights, form='old.pth'),
    'weights: msgpack': _of(_weights, form='w.msgpack'),
    'weights: .npz': _of(_weights, form='w.npz'),
    'weights: TorchScript': _of(_weights, form='script.pt'),
    'weights: shards': _of(_weights, form='sharded'),
    'video': data_subjects.video,
    'export to timm': _of(_export, target='timm'),
    'export to mae': _of(_export, target='mae'),
    'export to vit-mae': _of(_export, target='vit-mae'),
    'export to clip': _of(_export, target='clip'),
    'checkpoint of import_torch': _of(_checkpoint, name='imported')}  # yapf: disable
"""Made without training."""

TRAINED: dict[str, Callable[[World, World], Subject]] = {
    'caption cache': run_subjects.captions,
    'token ids': run_subjects.token_ids,
    'view embeddings': run_subjects.views,
    'features cache': run_subjects.features,
    'checkpoint of pretrain': _of(_checkpoint, name='pretrained'),
    'checkpoint of finetune': _of(_checkpoint, name='finetuned'),
    'a run, resumed': run_subjects.resumed,
    'config.json, result.json of a run': run_subjects.run_config}  # yapf: disable
"""Of runs of pretrain and finetune, or by a compiled model."""
