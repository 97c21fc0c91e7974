"""The six agent workflows that the Helium paper (arXiv 2603.16104, section 6) evaluates, one file each.

Each file has the workflow as DataFrame code, and the same calls as a job for systems without Spark. The prompts are
ours. A test on the simulator checks that both give the same answers.
"""
