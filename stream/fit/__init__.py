"""Fits the parameters of the churn models to a site's profiles: `tracker fit`, and each night a worker.

    histories   what a fit takes, read from the profiles in Redis (read-only)
    likelihood  the fits themselves: numpy and scipy, in a process of its own
    nightly     decides what is fitted and what is refused, publishes it as records of profile-events

numpy and scipy are in the extra `fit`; nothing else of the workers needs them.
"""
