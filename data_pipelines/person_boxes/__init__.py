"""The verb `person_boxes`: finding persons and cutting them out."""
