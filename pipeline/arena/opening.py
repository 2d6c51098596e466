"""How a comparison begins: what can be checked is checked, the images are prepared, the steps measured, the trainings chosen."""

from functools import partial

from pipeline.arena.bouts import Bouts
from pipeline.arena.lineup import Costs, Lineup, cheapest_first, control_first, lineup
from pipeline.arena.serving import methods_of
from pipeline.arena.sharing import do_all
from pipeline.arena.trainings import Arena
from pipeline.config import PipelineConfig
from pipeline.store.store import Mode, Store
from stages.config.compare import losses_of


def begin(config: PipelineConfig, store: Store, seeds: int, *, minutes: float | None = None, shared: bool = False) -> Bouts:
    """The trainings of a comparison, none of them begun.

    Args:
        minutes: methods and seeds are left out until the estimate is at most this.
        shared: whether other processes train too; from then on, the store does not wait for what they do.

    Raises:
        ConfigError: methods that do not serve the pair, or do not fit into the minutes.
        DataError: there is no tuning split of the name.
    """
    names = methods_of(config)
    arena = Arena.of(config, store)
    if config.compare.tuning_split is not None:
        arena.dataset.split(config.compare.tuning_split)
    store.mode = Mode(wait=not shared)
    field = lineup(config, names, seeds)
    do_all([job for one in field.methods for job in (partial(arena.times, one), partial(arena.memory, one))])
    looking = arena.looking(Mode(dry=True))
    costs = Costs.of(config, arena.dataset.facts, {one.name: looking.times(one).facts for one in field.methods})
    field = _ordered(config, field, costs)
    if minutes is not None:
        field = costs.fitting(control_first(field, config.compare.control), minutes)
    return Bouts(arena, field, costs.only(field))


def _ordered(config: PipelineConfig, field: Lineup, costs: Costs) -> Lineup:
    """Methods that nobody named come in the order of their costs, after those of the file's own losses."""
    if config.compare.methods is not None:
        return field
    own = {loss.name for loss in config.distill.losses}
    return cheapest_first(field, sum(own.issuperset(losses_of(one.name)) for one in field.methods), costs.times)
