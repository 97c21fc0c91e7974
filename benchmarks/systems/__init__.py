"""What runs a case: spark_helium, and what it is compared with. One file each."""
