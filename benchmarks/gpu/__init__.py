"""The suites of ``spark-helium bench`` on a machine with one NVIDIA GPU and no network; see README.md beside this
file."""
