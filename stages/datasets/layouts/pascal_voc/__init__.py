"""The parts that read Pascal VOC folders: which files belong to which split, what an XML file says, which image it means."""
