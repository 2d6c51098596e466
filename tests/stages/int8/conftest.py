"""No test of this folder exports a network twice."""

from collections.abc import Iterator

import int8_samples as samples
import pytest


@pytest.fixture(scope="module", autouse=True)
def exported_once() -> Iterator[None]:
    with samples.exports_once():
        yield
