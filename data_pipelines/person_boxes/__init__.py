"""The verb `person_boxes`: it finds persons and cuts them out."""
