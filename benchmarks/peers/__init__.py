"""Other systems as baselines, each in its own pinned environment; see ``docs/benchmarks.md``, "Other systems"."""
