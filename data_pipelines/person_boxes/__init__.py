"""The verb `person_boxes`: finding people and cutting them out."""
