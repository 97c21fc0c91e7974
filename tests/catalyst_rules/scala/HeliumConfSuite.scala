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

  test("declared models are checked with the settings of their engine") {
    def models(engine: String)(settings: (String, String)*): Set[String] =
      DeclaredModels.check(settings.map { case (k, v) => DeclaredModels.prefix + k -> v }.toMap, engine)
    def refusal(settings: (String, String)*): String =
      intercept[SparkRuntimeException](models("vllm")(settings: _*)).getCondition

    equal(models("vllm")("a.path" -> "org/a", "a.dtype" -> "bfloat16", "gpt-5.1.engine" -> "openai",
      "gpt-5.1.maxConcurrency" -> "3", "a.memory" -> "2g"), Set("a", "gpt-5.1"))
    equal(models("simulator")("a.dtype" -> "auto"), Set("a")) // rests until the engine is vllm
    equal(refusal("a.engine" -> "magic"), "HELIUM_SETTING_INVALID")
    equal(refusal("a.maxModelLen" -> "-1"), "HELIUM_SETTING_INVALID")
    equal(refusal("a.path" -> "./here"), "HELIUM_SETTING_INVALID")
    equal(refusal("a.maxModelLength" -> "9"), "HELIUM_SETTING_UNKNOWN")
    equal(refusal("a.engine" -> "simulator", "a.dtype" -> "auto"), "HELIUM_SETTING_UNKNOWN")
    equal(refusal("path" -> "org/a"), "HELIUM_SETTING_UNKNOWN")
    equal(refusal("a b.path" -> "org/a"), "HELIUM_SETTING_UNKNOWN")
    equal(condition("spark.helium.models.a.engine" -> "magic"), "HELIUM_SETTING_INVALID")
  }

  test("the default model is checked when the session starts") {
    equal(condition("spark.helium.model" -> "smalll"), "HELIUM_SETTING_INVALID")
    HeliumConf.validate(new SparkConf(false).set("spark.helium.model", "small")
      .set("spark.helium.models.small.path", "org/small"))
    HeliumConf.validate(new SparkConf(false).set("spark.helium.model", "gpt-5").set("spark.helium.engine", "openai"))
  }

  test("a value that may be a secret is not shown") {
    val conf = new SparkConf(false).set("spark.helium.openai.apiKeyVariable", "sk-canary")
    val e = intercept[SparkRuntimeException](HeliumConf.validate(conf))
    equal(e.getMessage.contains("canary"), false)
  }

  test("a snapshot holds every setting, changed ones with their value") {
    val conf = new SQLConf
    conf.setConfString("spark.helium.model", "a/b")
    val snapshot = HeliumConf.snapshot(conf)
    equal(snapshot.keySet, HeliumConf.keys.toSet)
    equal(snapshot("spark.helium.model"), "a/b")
    equal(snapshot("spark.helium.engine"), "vllm")
    conf.setConfString("spark.helium.models.a.path", "org/a")
    equal(HeliumConf.snapshot(conf)("spark.helium.models.a.path"), "org/a")
  }
}
