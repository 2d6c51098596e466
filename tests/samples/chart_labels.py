"""Where the words of a chart are."""

from pipeline.report.charts import ASCENT, LINE_HEIGHT, Label, Rectangle, text_width


def label_box(label: Label) -> Rectangle:
    """The rectangle that a label of two lines fills, px."""
    width = text_width(label.text, label.detail)
    left, top = label.x - {"start": 0.0, "middle": width / 2, "end": width}[label.anchor], label.y - ASCENT
    return left, top, left + width, top + 2 * LINE_HEIGHT
