package org.apache.spark.sql.helium

import org.apache.spark.{SparkConf, SparkRuntimeException}
import org.apache.spark.sql.helium.testing.HeliumSuite
import org.apache.spark.sql.internal.SQLConf

class HeliumConfSuite extends HeliumSuite {

  private def condition(settings: (String, String)*): String = {
    val conf = new SparkConf(false)
    settings.foreach { case (k, v) => conf.set(k, v) }
    intercept[SparkRuntimeException](HeliumConf.validate(conf)).getCondition
  }

  test("every default is a valid value") {
    val conf = new SparkConf(false)
    HeliumConf.snapshot(new SQLConf).foreach { case (k, v) => conf.set(k, v) }
    HeliumConf.validate(conf)
  }

  test("an unknown setting names the nearest one") {
    val conf = new SparkConf(false).set("spark.helium.cach.enabled", "true")
    val e = intercept[SparkRuntimeException](HeliumConf.validate(conf))
    equal(e.getCondition, "HELIUM_SETTING_UNKNOWN")
    equal(e.getMessageParameters.get("hint"), "Did you mean spark.helium.cache.enabled?")
  }

  test("values out of bounds, of another type, or not listed are refused") {
    equal(condition("spark.helium.maxTokens" -> "0"), "HELIUM_SETTING_INVALID")
    equal(condition("spark.helium.maxTokens" -> "many"), "HELIUM_SETTING_INVALID")
    equal(condition("spark.helium.engine" -> "magic"), "HELIUM_SETTING_INVALID")
    equal(condition("spark.helium.model" -> " "), "HELIUM_SETTING_INVALID")
    equal(condition("spark.helium.vllm.gpuMemoryUtilization" -> "1.5"), "HELIUM_SETTING_INVALID")
    equal(condition("spark.helium.executor.idleTimeout" -> "10 parsecs"), "HELIUM_SETTING_INVALID")
  }

  test("a session's change is checked too") {
    val e = intercept[IllegalArgumentException] {
      new SQLConf().setConfString("spark.helium.engine", "magic")
    }
    equal(e.getMessage.contains("spark.helium.engine"), true)
  }

  test("a snapshot holds every setting, changed ones with their value") {
    val conf = new SQLConf
    conf.setConfString("spark.helium.model", "a/b")
    val snapshot = HeliumConf.snapshot(conf)
    equal(snapshot.keySet, HeliumConf.keys.toSet)
    equal(snapshot("spark.helium.model"), "a/b")
    equal(snapshot("spark.helium.engine"), "vllm")
  }
}
