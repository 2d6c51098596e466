"""A million requests of rubbish to one server, in parts.

EDGEDISTILL_SOAK=DIR python -P -m pytest tests/deploy/serving/test_million.py -m slow    continues what DIR/million.json has of it
EDGEDISTILL_SOAK_MINUTES=50                                                              ends after that long, to be continued
"""

import os
from pathlib import Path

import artifact_samples as samples
import pytest

pytest.importorskip("uvicorn")
from rubbish_samples import Soak

from deploy.bundles.bundle import Bundle

MILLION, PART = 1_000_000, 20_000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return samples.bundle(tmp_path_factory.mktemp("million"))


@pytest.mark.slow
@pytest.mark.timeout(8 * 3600)
def test_a_million_requests_leave_nothing_behind(bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(os.environ.get("EDGEDISTILL_SOAK") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    soak = Soak(folder / "million.json", MILLION, PART)
    soak.run(bundle.root, 60 * float(os.environ.get("EDGEDISTILL_SOAK_MINUTES") or "inf"))
    for server in soak.found["servers"]:
        memory, descriptors = server["memory_kib"], server["descriptors"]
        if memory:  # a run may have been ended in its first part
            assert max(memory) <= 1.05 * memory[0], memory
            assert max(descriptors) <= descriptors[0], descriptors
    if soak.done < MILLION:
        pytest.skip(f"{soak.done:,} of {MILLION:,}, in {folder}; run it again")
    assert soak.found["statuses"]["200"] > MILLION / 20


def test_a_run_that_was_ended_goes_on(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "million.json"
    Soak(file, 600, 200).run(bundle.root, seconds=0.0001)
    begun = Soak(file, 600, 200)
    assert 200 <= begun.done < 600
    begun.run(bundle.root)
    again = Soak(file, 600, 200)
    assert 600 <= again.done < 620  # one more for each connection
    assert [len(server["descriptors"]) for server in again.found["servers"]] == [1, 2]
    assert set(again.found["statuses"]) <= {"200", "400", "404", "405", "413", "415"}
