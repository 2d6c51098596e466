"""Entries of a COCO file (images, annotations, categories) as tools write them, brought to one strict form."""
