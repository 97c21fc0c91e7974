package org.apache.spark.sql.helium.nodes

import java.util.concurrent.ConcurrentHashMap

import scala.jdk.CollectionConverters._

import org.apache.spark.internal.Logging

/** On the driver: the last health of each executor, and a line in the log when a daemon comes or goes. */
class HealthBoard extends Logging {

  private val byExecutor = new ConcurrentHashMap[String, NodeHealth]

  /** Sorted by executor. */
  def all: Seq[NodeHealth] = byExecutor.values.asScala.toSeq.sortBy(_.executor)

  def update(json: String): Unit = {
    val now = NodeHealth.parse(json)
    val before = Option(byExecutor.put(now.executor, now))
    HealthBoard.changes(before, now).foreach {
      case (true, line) => logWarning(line)
      case (false, line) => logInfo(line)
    }
  }

  def remove(executor: String): Unit = byExecutor.remove(executor)

  def close(): Unit = HealthBoard.close(this)
}

object HealthBoard {

  @volatile private var opened: Option[HealthBoard] = None

  private[helium] def open(): HealthBoard = {
    val board = new HealthBoard
    opened = Some(board)
    board
  }

  private def close(board: HealthBoard): Unit = if (opened.contains(board)) opened = None

  /** The board of the running application; none without the plugin. */
  def current: Option[HealthBoard] = opened

  /** The running application's, as a JSON array with one object per executor. */
  def json: String = current.fold(Seq.empty[NodeHealth])(_.all).map(_.toJson).mkString("[", ",", "]")

  /** What is new since `before`, each with whether it is a warning. */
  private[helium] def changes(before: Option[NodeHealth], now: NodeHealth): Seq[(Boolean, String)] = {
    val where = s"spark-helium, executor ${now.executor} on ${now.host}:"
    val silence = Option.when(now.reason.nonEmpty && !before.exists(_.reason == now.reason))(
      true -> s"$where ${now.reason}")
    silence.toSeq ++ now.daemons.flatMap { daemon =>
      val last = before.flatMap(_.daemons.find(_.identity == daemon.identity))
      ofDaemon(where, last, daemon) ++ ofEngines(where, last, daemon)
    }
  }

  private def ofDaemon(where: String, last: Option[DaemonHealth], now: DaemonHealth): Option[(Boolean, String)] =
    if (last.exists(l => l.state == now.state && (l.pid == now.pid || now.pid.isEmpty))) {
      None
    } else if (now.isUp) {
      Some(false -> s"$where ${now.name} is up as process ${now.pid.getOrElse("?")}")
    } else {
      val line = s"$where ${now.name} is down: ${now.reason}. Its log there: ${now.log}"
      Some((now.state != "stopped") -> line)
    }

  private def ofEngines(where: String, last: Option[DaemonHealth], now: DaemonHealth): Seq[(Boolean, String)] = {
    val known = last.toSeq.flatMap(_.engines).filter(_.state == "failed").map(e => (e.model, e.kind)).toSet
    now.engines.filter(e => e.state == "failed" && !known((e.model, e.kind))).map { engine =>
      true -> s"$where the engine of model ${engine.model} did not start. The daemon's log there: ${now.log}"
    }
  }
}
