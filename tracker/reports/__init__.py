"""Answers of the read API that are more than counts: rates, distributions, cohorts. Each file has a pure function of
the counters' sums, and what reads them. Formulas and vectors: docs/counters.md. 0/0 is None everywhere."""
