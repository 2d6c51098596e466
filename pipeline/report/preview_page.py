"""preview.html: labeled samples and histograms of a data set in one file that opens offline and has no scripts."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report import environment
from pipeline.report.boxes import View


@dataclass(frozen=True)
class LabeledSample:
    """An image of width x height px as a data URI with its labeled boxes, and why it is shown."""

    name: str
    width: int
    height: int
    uri: str
    view: View
    why: str


@dataclass(frozen=True)
class Bar:
    """A row of a histogram; `share` of the longest bar. `kind` is "few" for what is hard to learn, "limit" for the last of these."""

    label: str
    count: int
    share: float
    kind: str = ""


@dataclass(frozen=True)
class Preview:
    """Everything that the page shows."""

    name: str
    lead: str
    photos: Sequence[LabeledSample]
    classes: Sequence[Bar]
    sizes: Sequence[Bar]
    about_sizes: str
    notes: Sequence[str]


def render_preview(page: Preview) -> str:
    """The page's text."""
    return environment().get_template("preview.html.j2").render(page=page)
