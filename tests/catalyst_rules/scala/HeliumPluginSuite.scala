package org.apache.spark.sql.helium

import java.util.{HashMap => JHashMap}

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.SparkConf
import org.apache.spark.sql.helium.nodes.ExecutorGpus
import org.apache.spark.sql.helium.testing.HeliumSuite

class HeliumPluginSuite extends HeliumSuite {

  test("the orders of a supervisor") {
    val orders = JsonMethods.parse(HeliumPlugin.orders(Map("spark.helium.model" -> "a\nb"), Seq("0", "1"), 0.5, 300))
    equal(orders, JObject(
      "settings" -> JObject("spark.helium.model" -> JString("a\nb")),
      "gpus" -> JArray(List(JString("0"), JString("1"))),
      "task_gpus" -> JDouble(0.5),
      "interval" -> JDouble(0.3)))
    // It is one line.
    equal(HeliumPlugin.orders(Map("a" -> "b\nc"), Nil, 0, 1).contains('\n'), false)
  }

  test("GPUs of a task: as its stage asks, else as all stages do") {
    def of(settings: (String, String)*): Double = {
      val conf = new SparkConf(false).setAll(settings)
      HeliumPlugin.taskGpus(conf, HeliumConf.of(conf))
    }
    equal(of(), 0.0)
    equal(of("spark.task.resource.gpu.amount" -> "0.25"), 0.25)
    equal(of("spark.task.resource.gpu.amount" -> "0.25", "spark.helium.resources.taskGpus" -> "1"), 1.0)
  }

  test("workers are told the executor's GPUs where it has some") {
    val environment = new JHashMap[String, String]
    ExecutorGpus.tell(environment)
    equal(environment.isEmpty, true)
    ExecutorGpus.set(Seq("2", "3"))
    ExecutorGpus.tell(environment)
    equal(environment.get("SPARK_HELIUM_EXECUTOR_GPUS"), "2,3")
    ExecutorGpus.set(Nil)
  }
}
