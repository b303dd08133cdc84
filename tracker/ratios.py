"""Every ratio that an answer has, by one rule: of nothing it is None (JSON null), never 0 and never an error; a part
that is more than its whole is clamped to it, and counted in `tracker_metric_anomaly_total`, for then one of both was
reported wrong, late, or not at all.

What may be more than 1 is no ratio of this kind: means (`minutes_a_user`), and how much less somebody does than before.
"""

from __future__ import annotations

from tracker.metrics import ANOMALIES


def ratio(name: str, part: float, whole: float, scale: float = 1.0) -> float | None:
    """scale * part / whole, within 0..scale. `name`: one of RATIOS in tracker/metrics.py."""
    if whole == 0:
        return None
    if 0 <= part <= whole:
        return scale * part / whole
    ANOMALIES[name].inc()
    if whole < 0:  # more of it was taken back than counted: a bucket was full
        return None
    return float(scale) if part > whole else 0.0
