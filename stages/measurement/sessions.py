"""Opening an engine of the store on this machine."""

from deploy import plugins
from deploy.errors import RuntimeUnavailable
from deploy.runtimes import Session
from stages.artifacts import Engine


def open_session(engine: Engine, threads: int | None) -> Session:
    """A session, which the caller closes.

    Raises:
        RuntimeUnavailable: the engine was not built, or cannot run on this machine.
        ArtifactError: the engine is damaged.
    """
    facts = engine.facts
    runtime = plugins.load("deploy.runtimes", facts.runtime)
    why = facts.why or runtime.why_not() or runtime.foreign(facts.fingerprint)
    if why is not None or facts.file is None:
        raise RuntimeUnavailable(why or "no engine was built")
    session: Session = runtime.open(engine.file(facts.file), threads=threads, options=facts.options)
    return session
