package org.apache.spark.sql.helium.execution

import org.apache.spark.{SparkConf, SparkRuntimeException}
import org.apache.spark.resource.{ResourceProfile, TaskResourceProfile}
import org.apache.spark.sql.helium.HeliumConf
import org.apache.spark.sql.helium.testing.HeliumSuite

class CallResourcesSuite extends HeliumSuite {

  private val cluster = new SparkConf(false).set("spark.master", "spark://h:7077")

  private def request(settings: (String, String)*): ResourceProfile = {
    val conf = cluster.clone.setAll(settings)
    CallResources.request(conf, HeliumConf.of(conf))
  }

  private def refused(settings: (String, String)*): String =
    intercept[SparkRuntimeException](request(settings: _*)).getMessage

  test("without dynamic allocation tasks ask for the GPUs that all executors have") {
    val profile = request("spark.executor.resource.gpu.amount" -> "2", "spark.helium.resources.taskGpus" -> "0.5")
    equal(profile.isInstanceOf[TaskResourceProfile], true)
    equal(profile.taskResources("gpu").amount, 0.5)
  }

  test("with dynamic allocation executors of their own have the GPUs") {
    val profile = request("spark.dynamicAllocation.enabled" -> "true", "spark.helium.resources.taskGpus" -> "1",
      "spark.helium.resources.executorGpus" -> "2", "spark.helium.resources.executorCores" -> "4",
      "spark.helium.resources.executorMemory" -> "3g", "spark.helium.resources.vendor" -> "nvidia.com",
      "spark.executor.resource.gpu.discoveryScript" -> "/find")
    equal(profile.isInstanceOf[TaskResourceProfile], false)
    equal(profile.taskResources("gpu").amount, 1.0)
    val gpu = profile.executorResources("gpu")
    equal((gpu.amount, gpu.discoveryScript, gpu.vendor), (2L, "/find", "nvidia.com"))
    equal((profile.getExecutorCores, profile.getExecutorMemory), (Some(4), Some(3072L)))
  }

  test("cores and memory are those of all executors unless they are given") {
    val profile = request("spark.dynamicAllocation.enabled" -> "true", "spark.helium.resources.taskGpus" -> "1")
    equal(profile.executorResources.keySet, Set("gpu"))
  }

  test("what no executor can give is refused before a stage waits for it") {
    val none = refused("spark.helium.resources.taskGpus" -> "1")
    equal(none.contains("Set spark.executor.resource.gpu.amount"), true, none)
    val part = refused("spark.helium.resources.taskGpus" -> "1.5", "spark.executor.resource.gpu.amount" -> "2")
    equal(part.contains("a whole number"), true, part)
  }
}
