"""What runs on a node beside Spark: the daemon, its client, its engines, its prompt cache."""
