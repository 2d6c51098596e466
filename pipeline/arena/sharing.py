"""Work that several processes share: each takes the next job that nobody else is doing, and none ends before all are done."""

import time
from collections.abc import Callable, Iterable

from deploy.errors import Diverged
from pipeline.store.store import TakenElsewhere

POLL_SECONDS = 5.0
"""How long a process waits if every job that is left is being done by others."""

Job = Callable[[], object]
"""Something that is done once its artifact is in the store; done again, it only finds it there."""


def do_all(jobs: Iterable[Job], after: Callable[[], None] = lambda: None) -> None:
    """Do every job, here or elsewhere. A job that a different process is doing is looked at again later: that process may be killed.

    A training that diverges is done: whoever needs its result asks again and is told. `after` is called after each job.
    """
    left = list(jobs)
    while left:
        taken = [job for job in left if not _done(job, after)]
        if len(taken) == len(left):
            time.sleep(POLL_SECONDS)
        left = taken


def _done(job: Job, after: Callable[[], None]) -> bool:
    try:
        job()
    except TakenElsewhere:
        return False
    except Diverged:
        after()
        return True
    after()
    return True
