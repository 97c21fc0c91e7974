package org.apache.spark.sql.helium

import java.util.{Map => JMap}

import scala.jdk.CollectionConverters._
import scala.util.control.NonFatal

import org.apache.spark.SparkContext
import org.apache.spark.api.plugin.{DriverPlugin, ExecutorPlugin, PluginContext, SparkPlugin}
import org.apache.spark.internal.Logging
import org.apache.spark.scheduler.{SparkListener, SparkListenerExecutorRemoved}
import org.apache.spark.sql.helium.execution.PythonCommand
import org.apache.spark.sql.helium.nodes.{DaemonGauges, ExecutorGpus, HealthBoard, NodeHealth, SupervisorProcess}
import org.apache.spark.util.Utils

/**
 * Spark's plugin: `spark.plugins=org.apache.spark.sql.helium.HeliumPlugin`. Optional; without it the first task
 * of a node starts its daemon.
 *
 * {{{
 *   driver     HealthBoard  ◀── last health of each executor, as JSON
 *   executor   SupervisorProcess ──▶ Python child ──▶ the node's daemon: started, asked from time to time
 *              DaemonGauges: Spark's metrics            ExecutorGpus: what tasks that got no GPU of their own use
 * }}}
 */
class HeliumPlugin extends SparkPlugin {

  override def driverPlugin(): DriverPlugin = new HeliumDriverPlugin

  override def executorPlugin(): ExecutorPlugin = new HeliumExecutorPlugin
}

private class HeliumDriverPlugin extends DriverPlugin {

  private var board: Option[HealthBoard] = None

  /** What executors cannot know: which Python their workers will be. */
  override def init(context: SparkContext, plugin: PluginContext): JMap[String, String] = {
    HeliumErrors.register()
    HeliumConf.validate(context.conf)
    val ours = HealthBoard.open()
    board = Some(ours)
    context.addSparkListener(new SparkListener {
      override def onExecutorRemoved(event: SparkListenerExecutorRemoved): Unit = ours.remove(event.executorId)
    })
    Map(
      HeliumPlugin.python -> PythonCommand.executable(context, HeliumConf.of(context.conf)),
      HeliumPlugin.includes -> PythonCommand.includes(context).mkString(",")).asJava
  }

  override def registerMetrics(application: String, plugin: PluginContext): Unit =
    board.foreach(DaemonGauges.registerTotals(plugin.metricRegistry, _))

  /** A text, as a class of ours may be unknown to the loader that reads messages. */
  override def receive(message: AnyRef): AnyRef = {
    message match {
      case json: String => board.foreach(_.update(json))
      case _ =>
    }
    null
  }

  override def shutdown(): Unit = board.foreach(_.close())
}

private class HeliumExecutorPlugin extends ExecutorPlugin with Logging {

  private var supervisor: Option[SupervisorProcess] = None

  // An executor whose plugin throws ends: nothing here may.
  override def init(plugin: PluginContext, fromDriver: JMap[String, String]): Unit =
    try start(plugin, fromDriver.asScala.toMap) catch {
      case NonFatal(e) =>
        logWarning("spark-helium could not start the node's daemon with this executor; the first task with LLM " +
          s"calls will start it: $e", e)
    }

  private def start(plugin: PluginContext, fromDriver: Map[String, String]): Unit = {
    val conf = HeliumConf.of(plugin.conf)
    val gpus = Option(plugin.resources.get("gpu")).fold(Seq.empty[String])(_.addresses.toSeq)
    val local = plugin.executorID == "driver"
    ExecutorGpus.set(gpus)
    val gauges = new DaemonGauges
    gauges.register(plugin.metricRegistry)
    if (gpus.isEmpty && !local && HeliumConf.double(conf, "spark.helium.resources.taskGpus") > 0) {
      logInfo("this executor has no GPU, so that no stage with LLM calls runs here: no daemon is started")
    } else {
      val interval = HeliumConf.long(conf, "spark.helium.plugin.healthInterval")
      val orders = HeliumPlugin.orders(HeliumConf.snapshot(conf), gpus,
        if (local) 0 else HeliumPlugin.taskGpus(plugin.conf, conf), interval)
      val host = Utils.localHostName() // PluginContext.hostname fails where no port is open, as in an executor
      val process = new SupervisorProcess(
        fromDriver(HeliumPlugin.python),
        fromDriver.getOrElse(HeliumPlugin.includes, "").split(",").toSeq.filter(_.nonEmpty),
        orders,
        interval,
        line => {
          val health = NodeHealth.parse(line).copy(
            executor = plugin.executorID, host = host, at = System.currentTimeMillis())
          gauges.update(health)
          plugin.send(health.toJson)
        })
      supervisor = Some(process)
      process.start()
    }
  }

  override def shutdown(): Unit = supervisor.foreach(_.close())
}

private[helium] object HeliumPlugin {

  import org.json4s._

  import org.apache.spark.SparkConf
  import org.apache.spark.sql.helium.plans.CallGraph
  import org.apache.spark.sql.internal.SQLConf

  val python = "python"
  val includes = "includes"

  /** The line that `supervisor.py` reads. */
  def orders(settings: Map[String, String], gpus: Seq[String], taskGpus: Double, interval: Long): String =
    CallGraph.render(JObject(
      "settings" -> JObject(settings.toList.sorted.map { case (k, v) => k -> JString(v) }),
      "gpus" -> JArray(gpus.map(JString(_)).toList),
      "task_gpus" -> JDouble(taskGpus),
      "interval" -> JDouble(interval / 1000.0)))

  /** GPUs of a task with calls: as its stage asks, or as all stages do. */
  def taskGpus(spark: SparkConf, conf: SQLConf): Double =
    HeliumConf.double(conf, "spark.helium.resources.taskGpus") match {
      case 0 => spark.getDouble("spark.task.resource.gpu.amount", 0)
      case own => own
    }
}
