"""An estimate of the lowest latency that a machine allows: products at its peak rate, every weight read once, whichever takes longer.

Method: Williams et al., "Roofline: An Insightful Visual Performance Model for Multicore Architectures", Communications of the ACM
2009, https://doi.org/10.1145/1498765.1498785. Departures: one bound for the whole graph; activations are taken to stay in caches.
What passes it: convolutions of fewer products (Winograd's), weights that stay in a cache from pass to pass, TF32, AMX.
"""

from deploy.contract import Cost
from deploy.machine.peak import Peak


def lowest_ms(cost: Cost, peak: Peak) -> float:
    """About the least time for one image."""
    return max(cost.macs / peak.macs, (cost.weight_bytes + cost.input_bytes) / peak.bytes) * 1000
