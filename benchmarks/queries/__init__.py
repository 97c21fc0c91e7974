"""Queries over tables, a file per table: the types of the LLM-SQL paper (arXiv 2403.05821) and of SemBench's movie
scenario (arXiv 2511.01716). ``benchmarks/suites/relational.py`` lists them.

Each is DataFrame code in which ``ask`` is ``llm`` or a pandas UDF, and a job. The rows of a job are those that a user
of a system without joins and filters would send: the relational part that does not read an answer is done before,
untimed, and what reads answers is done in pandas after. A row of a table is sampled with its group, so that values
repeat about as they do in the whole table; each round has other rows.
"""
