"""What spark_helium gains, and against what: ``spark-helium bench``, and scripts for single parts.

``command.py`` is the command. A *suite* (``suites/``) is a list of cases. A *case* is a query as DataFrame code, and
the same calls as a *job* (``jobs.py``) for systems that are not Spark. A *system* (``systems/``) runs cases.
"""
