package org.apache.spark.sql.helium.nodes

import java.util.{Map => JMap}

/**
 * The GPUs that Spark gave this executor, as far as the plugin is there to tell. A task that Spark gave some of them
 * uses those; one that asked for none uses all.
 */
private[helium] object ExecutorGpus {

  /** Read by `spark_worker.py`. */
  val variable = "SPARK_HELIUM_EXECUTOR_GPUS"

  @volatile private var addresses: Seq[String] = Nil

  def set(found: Seq[String]): Unit = addresses = found

  /** Adds them to the environment of a Python worker. */
  def tell(environment: JMap[String, String]): Unit =
    if (addresses.nonEmpty) environment.put(variable, addresses.mkString(","))
}
