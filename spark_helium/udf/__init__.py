"""What runs inside Spark's Python workers: a batch of rows to the node daemon, answers back in row order."""
