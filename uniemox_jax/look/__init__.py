"""The verb `look`: what a model attends to, how it arranges images, where it errs."""
