package org.apache.spark.sql.helium.execution

import java.nio.charset.StandardCharsets
import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._
import scala.sys.process._
import scala.util.control.NonFatal

import org.apache.spark.SparkContext
import org.apache.spark.api.python.{PythonUtils, SimplePythonFunction}
import org.apache.spark.sql.helium.{HeliumConf, HeliumErrors}
import org.apache.spark.sql.internal.SQLConf

/**
 * The function that Spark's Python workers run for an `EvalLLM` node: `load(json)` of
 * `spark_helium.udf.entry`, written down as a pickle that only names it.
 */
private[execution] object PythonCommand {

  private val versions = new ConcurrentHashMap[String, String]

  def apply(context: SparkContext, conf: SQLConf, json: String): SimplePythonFunction = {
    val executable = pythonOf(context, conf)
    new SimplePythonFunction(
      command = pickle(json),
      envVars = new java.util.HashMap[String, String](),
      pythonIncludes = Seq.empty[String].asJava,
      pythonExec = executable,
      pythonVer = versions.computeIfAbsent(executable, versionOf),
      broadcastVars = Seq.empty.asJava,
      accumulator = null)
  }

  /** Where the session runs on one machine, the Python that configured it; else PySpark's rules. */
  private def pythonOf(context: SparkContext, conf: SQLConf): String = {
    val configured = HeliumConf.text(conf, "spark.helium.worker.python")
    val local = context.isLocal && configured.nonEmpty
    if (local) configured
    else context.conf.getOption("spark.pyspark.python").getOrElse(PythonUtils.defaultPythonExec)
  }

  // The worker refuses to run when its version is not the one that the driver names.
  private def versionOf(executable: String): String = {
    val ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try {
      Process(Seq(executable, "-c", ask)).!!(ProcessLogger(_ => ())).trim
    } catch {
      case NonFatal(e) => throw HeliumErrors.daemonFailed(
        s"the Python of Spark's workers, $executable, cannot be run: ${e.getMessage}. " +
          "Set PYSPARK_PYTHON or spark.pyspark.python to a Python that has spark-helium installed.")
    }
  }

  /** Pickle protocol 0: the global `load`, a string in a tuple, and the call of it. */
  private[execution] def pickle(json: String): Array[Byte] = {
    val escaped = new StringBuilder
    json.foreach { c =>
      if (c >= ' ' && c <= '~' && c != '\\') escaped.append(c)
      else escaped.append(f"\\u${c.toInt}%04x")
    }
    s"cspark_helium.udf.entry\nload\n(V$escaped\ntR.".getBytes(StandardCharsets.US_ASCII)
  }
}
