"""The frozen CLIP or SigLIP and the texts that it embeds.

The step knows `step_teacher.Teacher` alone. What makes one is written for models of images and texts; what another
teacher needs depends on which it is:

- With texts: its network in `models`; its table of names in `convert`, a line in `convert.weight_families`, and its
  views in `convert.published_views`; a tokenizer beside `siglip_tokenizer`; and a case each in
  `weight_folder.describe`, `frozen_clip.model_of`, `Clip.clip_config` and `train.flops`, which counts its
  `Teacher.towers`. What opens it as a model of its own asks for its kind: `train.open_model`, `api`, `look`,
  `export_torch`, `convert.onnx_graph`.
- Without texts, such as DINOv2, it can be no `frozen_clip.Clip`. Beside the first three it needs a function like
  `make_teacher`, whose parameters have the tower under 'vision', and a case in `load_teachers`. L1 has no texts then:
  `train.config` and `pretrain`, which embeds captions with every one of `LoadedTeachers.clips`, must refuse it.

Where `plan` has no weights, `train.setup.clip_of_shape` stands in.
"""
