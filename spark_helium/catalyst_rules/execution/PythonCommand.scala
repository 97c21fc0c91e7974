package org.apache.spark.sql.helium.execution

import java.nio.charset.StandardCharsets
import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._
import scala.sys.process._
import scala.util.control.NonFatal

import org.apache.spark.SparkContext
import org.apache.spark.api.python.SimplePythonFunction
import org.apache.spark.sql.helium.{HeliumConf, HeliumErrors}
import org.apache.spark.sql.internal.SQLConf

/**
 * The function that Spark's Python workers run for an `EvalLLM` node: `load(json)` of
 * `spark_helium.udf.entry`, written down as a pickle that only names it.
 */
private[helium] object PythonCommand {

  private val versions = new ConcurrentHashMap[String, String]

  def apply(context: SparkContext, conf: SQLConf, json: String): SimplePythonFunction = {
    val python = executable(context, conf)
    val configured = HeliumConf.text(conf, "spark.helium.worker.python")
    new SimplePythonFunction(
      command = pickle(json),
      envVars = new java.util.HashMap[String, String](),
      pythonIncludes = includes(context).asJava,
      pythonExec = python,
      pythonVer = version(python, configured),
      broadcastVars = Seq.empty.asJava,
      accumulator = null)
  }

  /**
   * Where the session runs on one machine, also in several processes, the Python that configured it;
   * else PySpark's rules.
   */
  def executable(context: SparkContext, conf: SQLConf): String = {
    val configured = HeliumConf.text(conf, "spark.helium.worker.python")
    val local = context.isLocal || context.master.startsWith("local-cluster")
    if (local && configured.nonEmpty) configured
    else {
      context.conf.getOption("spark.pyspark.python").orElse(sys.env.get("PYSPARK_PYTHON"))
        .getOrElse("python3")
    }
  }

  /** Archives of `--py-files`, which workers find beside the application's files. */
  def includes(context: SparkContext): Seq[String] =
    context.conf.get("spark.submit.pyFiles", "").split(",").toSeq
      .map(path => path.trim.split('/').last)
      .filter(name => Seq(".zip", ".egg", ".jar").exists(name.endsWith))

  /** The workers' Python may be on the workers only; then it is like the one that configured. */
  private def version(executable: String, configured: String): String =
    versions.computeIfAbsent(executable, asked =>
      versionOf(asked).orElse(Option(configured).filter(_.nonEmpty).flatMap(versionOf)).getOrElse(
        throw HeliumErrors.daemonFailed(
          s"the Python of Spark's workers, $asked, cannot be run here, or has no spark-helium. Set " +
            "PYSPARK_PYTHON or spark.pyspark.python to a Python that has spark-helium installed.")))

  // The worker refuses to run when its version is not the one that the driver names.
  private def versionOf(executable: String): Option[String] = {
    val ask = "import sys, importlib.util as u; " +
      "sys.exit(1) if u.find_spec('spark_helium') is None else print('%d.%d' % sys.version_info[:2])"
    try {
      Some(Process(Seq(executable, "-c", ask)).!!(ProcessLogger(_ => ())).trim)
    } catch {
      case NonFatal(_) => None
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
