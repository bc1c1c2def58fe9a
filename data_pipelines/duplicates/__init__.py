"""The verb `duplicates`: copies of images that were resized, re-encoded, mirrored or slightly cropped."""
