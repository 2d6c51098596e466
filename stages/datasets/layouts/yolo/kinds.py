"""What reading a YOLO folder repairs, assumes or leaves out, each kind once."""

from stages.notes import Kind

ROOT = Kind("data.root one folder off", "repaired", "files")
MOVED = Kind("path that does not exist on this machine", "repaired", "files")
ABSENT = Kind("split that the data file names but the folder lacks", "left out", "files")
BY_FOLDER = Kind("split found by its folder", "assumed", "files")
SECOND_PLACE = Kind("path that exists twice", "assumed", "files")
OTHER_FILE = Kind("second data file", "assumed", "files")
NAMES = Kind("class names in an unusual form", "repaired", "classes")
NUM_CLASSES = Kind("nc disagrees with names", "assumed", "classes")
OTHER_NAMES = Kind("second list of class names", "assumed", "classes")

LISTED_TWICE = Kind("image listed twice", "repaired", "images")
UNREAD = Kind("image in a format that is not read", "left out", "images")
UNLABELED = Kind("image without a label file", "assumed", "images")
SHARED = Kind("label file of several images", "assumed", "images")
SPELLED = Kind("label file named differently from its image", "repaired", "files")
SECOND = Kind("second label file of an image", "assumed", "files")
ORPHAN = Kind("label file without an image", "left out", "files")

UNREADABLE = Kind("unreadable line", "left out", "boxes")
TOO_LARGE = Kind("box far larger than its image", "left out", "boxes")
BEYOND = Kind("box beyond its image's edge", "assumed", "boxes")
SEPARATORS = Kind("numbers separated by commas or semicolons", "repaired", "boxes")
FLOAT_CLASS = Kind("class number written as a fraction", "repaired", "boxes")
NAMED_CLASS = Kind("class name instead of its number", "repaired", "boxes")
CONFIDENCE = Kind("confidence after the box", "assumed", "boxes")
KEYPOINTS = Kind("keypoints after the box", "repaired", "boxes")
VISIBILITY = Kind("keypoints without kpt_shape", "assumed", "boxes")
ROTATED = Kind("four corners instead of a box", "repaired", "boxes")
