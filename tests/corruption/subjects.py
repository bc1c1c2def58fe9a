"""All kinds of files that a verb reads, by name: what makes its `Subject` in two worlds.

The second world has other files of the same kinds.
"""

from collections.abc import Callable
import functools

from tests.corruption import (
    data_subjects,
    media_subjects,
    result_subjects,
    run_subjects,
    user_subjects,
    weight_subjects,
)
from tests.corruption.subject import Subject
from tests.corruption.world import World

_of = functools.partial
_records, _raw, _table = data_subjects.records, data_subjects.raw, data_subjects.table
_weights, _export, _checkpoint = weight_subjects.weights, weight_subjects.export, weight_subjects.checkpoint

Make = Callable[[World, World], Subject]
GROUPS: dict[str, dict[str, Make]] = {
    'records': {
        'records of emo8': _of(_records, dataset='emo8'),
        'records of emotion6': _of(_records, dataset='emotion6'),
        'records of an earlier version': data_subjects.old_records},
    'raw folders': {
        'raw emoset': _of(_raw, dataset='emoset', patterns=('*.json', 'annotation/*/*.json', 'person_boxes.csv')),
        'raw emotic': _of(_raw, dataset='emotic', patterns=('*.csv', 'provenance.json')),
        'raw emotic: arrays': data_subjects.image_arrays,
        'raw emotion6': _of(_raw, dataset='emotion6', patterns=('ground_truth.txt',)),
        'raw emo8': _of(_raw, dataset='emo8', patterns=('train/*/*.jpg', 'person_boxes.csv')),
        'EMOTIC .mat': data_subjects.emotic_mat,
        'provenance of synthetic': data_subjects.provenance},
    'tables and lists of `build`': {
        'exclusions of build': _of(data_subjects.list_of_build, which='exclude'),
        'groups of build': _of(data_subjects.list_of_build, which='groups'),
        'table of build: csv': _of(_table, form='CSV'),
        'table of build: csv in UTF-16': _of(_table, form='CSV with semicolons and decimal commas, UTF-16'),
        'table of build: tsv': _of(_table, form='TSV with a mark'),
        'table of build: jsonl': _of(_table, form='JSON lines'),
        'table of build: json': _of(_table, form='JSON list'),
        'table of build: parquet': _of(_table, form='Parquet of paths'),
        'table of build: parquet with images': _of(_table, form='Parquet of bytes'),
        'table of build: parquet of datasets': _of(_table, form='Parquet of datasets'),
        'table of build: arrow with images': _of(_table, form='Arrow of bytes'),
        'table of build: arrow of datasets': _of(_table, form='save_to_disk')},
    'persons: boxes, progress, detectors': {
        'person_boxes.csv': media_subjects.boxes,
        'progress of person_boxes': media_subjects.progress,
        'detector .onnx': media_subjects.detector,
        'detector folder': weight_subjects.detector_folder},
    'images, videos, archives, lists of them': {
        'list of images': media_subjects.paths_list,
        'images of predict': media_subjects.images,
        'images of phones': media_subjects.phones,
        'animations': media_subjects.animations,
        'archives': media_subjects.archives,
        'video': media_subjects.video},
    'what annotators and `report` read': {
        'votes of annotate': user_subjects.votes,
        'images and table of annotate': user_subjects.images_to_label,
        'near-duplicates of report': user_subjects.near_duplicates,
        'votes of report': user_subjects.votes_of_report,
        'tokenizer of report': user_subjects.tokenizer_of_report},
    'label maps, words, prompts, groups, configs': {
        'groups of compare': user_subjects.groups_of_compare,
        'label map': user_subjects.label_map,
        'labels in words': user_subjects.words,
        'prompts': user_subjects.prompts,
        'config file': user_subjects.config_file},
    'tables of `predict`': {
        'table of predict: csv': _of(result_subjects.table, form='csv'),
        'table of predict: jsonl': _of(result_subjects.table, form='jsonl')},
    'what a run or the demo keeps': {
        'config.json and inputs.json': run_subjects.kept_config,
        'metrics.jsonl': run_subjects.metrics,
        'stages.json': run_subjects.stages,
        'look.json and figures': result_subjects.look,
        'reconstructions': result_subjects.reconstructions,
        'plan.json': result_subjects.plan,
        'a run that is resumed': run_subjects.resumed,
        'run of an earlier version': result_subjects.old_run,
        'config.json and result.json of a run': result_subjects.run_config},
    'results of `compare` and `ablate`': {
        'outputs.npz': result_subjects.outputs,
        'results of compare': result_subjects.comparison,
        'results of ablate': result_subjects.ablation},
    'caches': {
        'caption cache': run_subjects.captions,
        'token ids': run_subjects.token_ids,
        'view embeddings': run_subjects.views,
        'features cache': run_subjects.features,
        'compiled programs': run_subjects.programs},
    'checkpoints, as readers take them': {
        'checkpoint of import_torch': _of(_checkpoint, name='imported'),
        'checkpoint of pretrain': _of(_checkpoint, name='pretrained'),
        'checkpoint of finetune': _of(_checkpoint, name='finetuned')},
    'teachers and exports of this package': {
        'teacher folder': weight_subjects.teacher,
        'export to timm': _of(_export, target='timm'),
        'export to mae': _of(_export, target='mae'),
        'export to vit-mae': _of(_export, target='vit-mae'),
        'export to clip': _of(_export, target='clip'),
        'export to uniemox': _of(_export, target='uniemox'),
        'export to onnx': _of(weight_subjects.onnx, form='one file'),
        'export to onnx: large': _of(weight_subjects.onnx, form='large'),
        'export to onnx: int8': _of(weight_subjects.onnx, form='int8')},
    'teachers and weights of other libraries': {
        "another library's teacher": weight_subjects.foreign_teacher,
        "the hub's copy": weight_subjects.hub_copy,
        'teacher: SigLIP': _of(weight_subjects.siglip, kind='siglip'),
        'teacher: SigLIP 2': _of(weight_subjects.siglip, kind='siglip2'),
        'teacher: OpenAI': _of(weight_subjects.openai, form='OpenAI'),
        'teacher: open_clip': _of(weight_subjects.openai, form='open_clip'),
        'weights: safetensors': _of(_weights, form='w.safetensors'),
        'weights: .pth': _of(_weights, form='w.pth'),
        'weights: .pth before torch 1.6': _of(_weights, form='old.pth'),
        'weights: msgpack': _of(_weights, form='w.msgpack'),
        'weights: .npz': _of(_weights, form='w.npz'),
        'weights: TorchScript': _of(_weights, form='script.pt'),
        'weights: shards': _of(_weights, form='sharded')}}  # yapf: disable
"""By group, as the documentation lists them."""

KINDS = {kind: make for group in GROUPS.values() for kind, make in group.items()}
