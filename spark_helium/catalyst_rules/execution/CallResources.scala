package org.apache.spark.sql.helium.execution

import org.apache.spark.{SparkConf, SparkContext}
import org.apache.spark.rdd.RDD
import org.apache.spark.resource._
import org.apache.spark.sql.helium.{HeliumConf, HeliumErrors}
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.util.Utils

/**
 * Spark's stage-level scheduling for stages with LLM calls: their tasks ask for GPUs, and other stages do not
 * (`spark.helium.resources.*`). What stands in one stage with a call, down to the next exchange, asks with it.
 */
private[helium] object CallResources {

  private val key = "spark.helium.resources.taskGpus"

  /** The RDD of a node with calls, which is nobody else's yet. */
  def ask[T](rdd: RDD[T], conf: SQLConf): RDD[T] =
    profile(rdd.sparkContext, conf).fold(rdd)(rdd.withResources)

  /** One object for all stages of a kind: Spark does not schedule a stage that has two. */
  private[helium] def profile(context: SparkContext, conf: SQLConf): Option[ResourceProfile] =
    Option.when(HeliumConf.double(conf, key) > 0 && !context.isLocal)(synchronized {
      val manager = context.resourceProfileManager
      val wanted = request(context.conf, conf)
      manager.getEquivalentProfile(wanted).getOrElse {
        manager.addResourceProfile(wanted)
        wanted
      }
    })

  private[helium] def request(spark: SparkConf, conf: SQLConf): ResourceProfile = {
    val gpus = HeliumConf.double(conf, key)
    def refuse(reason: String) =
      throw HeliumErrors.settingInvalid(key, HeliumConf.text(conf, key), reason, HeliumConf.doc(key))
    if (gpus > 1 && !gpus.isWhole) refuse("more than one GPU must be a whole number of them.")
    val task = new TaskResourceRequests().resource("gpu", gpus)
    if (Utils.isDynamicAllocationEnabled(spark)) {
      new ResourceProfile(executor(spark, conf).requests, task.requests)
    } else {
      if (spark.getInt("spark.executor.resource.gpu.amount", 0) == 0) {
        refuse("the executors of this application have no GPUs. Set spark.executor.resource.gpu.amount, or " +
          "spark.dynamicAllocation.enabled, so that stages with calls get executors of their own.")
      }
      new TaskResourceProfile(task.requests)
    }
  }

  private def executor(spark: SparkConf, conf: SQLConf): ExecutorResourceRequests = {
    def ofGpu(name: String, own: String): String = HeliumConf.text(conf, s"spark.helium.resources.$own") match {
      case "" => spark.get(s"spark.executor.resource.gpu.$name", "")
      case given => given
    }
    val requests = new ExecutorResourceRequests().resource("gpu",
      HeliumConf.int(conf, "spark.helium.resources.executorGpus").toLong,
      ofGpu("discoveryScript", "discoveryScript"), ofGpu("vendor", "vendor"))
    val cores = HeliumConf.int(conf, "spark.helium.resources.executorCores")
    val memory = HeliumConf.long(conf, "spark.helium.resources.executorMemory")
    if (cores > 0) requests.cores(cores)
    if (memory > 0) requests.memory(s"${memory >> 20}m")
    requests
  }
}
