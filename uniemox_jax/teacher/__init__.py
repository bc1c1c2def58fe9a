"""The frozen CLIP or SigLIP and the texts that it embeds.

Another teacher plugs in at `step_teacher`: a function like `make_teacher` gives the step its `Teacher`, which embeds
images. `caption_embeddings` embeds the texts. `pretrain` calls both; where `plan` has no weights,
`train.setup.clip_of_shape` stands in.
"""
