"""The frozen CLIP or SigLIP and the texts that it embeds.

The step knows `step_teacher.Teacher` alone. What makes one is written for models of images and texts; what another
teacher needs depends on which it is:

- With texts: its network in `models`, its table of names in `convert` and a line in `convert.weight_families`, and a
  case each in `weight_folder.describe`, `frozen_clip.model_of` and `train.flops`, which counts its `Teacher.towers`.
- Without texts, such as DINOv2, it can be no `frozen_clip.Clip`. Beside the first three it needs a function like
  `make_teacher`, whose parameters have the tower under 'vision', and a case in `load_teachers`. L1 has no texts then:
  `train.config` and `pretrain`, which embeds captions with every one of `LoadedTeachers.clips`, must refuse it.

Where `plan` has no weights, `train.setup.clip_of_shape` stands in.
"""
