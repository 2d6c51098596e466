"""Estimates the lowest latency that a machine allows: products at peak rate or reading every weight once, whichever takes longer.

Method: Williams et al., "Roofline: An Insightful Visual Performance Model for Multicore Architectures", Communications of the ACM
2009, https://doi.org/10.1145/1498765.1498785. Departures: one bound for the entire graph; activations are assumed to stay in caches.
An engine may beat the estimate with convolutions of fewer products (Winograd's), weights cached between passes, TF32 or AMX.
"""

from deploy.contract import Cost
from deploy.machine.peak import Peak


def lowest_ms(cost: Cost, peak: Peak) -> float:
    """Estimated lowest time for one image, in milliseconds."""
    return max(cost.macs / peak.macs, (cost.weight_bytes + cost.input_bytes) / peak.bytes) * 1000
