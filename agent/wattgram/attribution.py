"""Energy and activity become shares that add up exactly.

No workload is known yet: every share is the pool's, unattributed.
"""

from __future__ import annotations

from wattgram.model import UNATTRIBUTED, EnergyDelta, Share


def split(delta: EnergyDelta) -> tuple[Share, ...]:
    """Return the shares of one delta; they add up to it, to the microjoule."""
    return (Share(UNATTRIBUTED, "active", delta.device.quality, delta, delta.microjoules),)
