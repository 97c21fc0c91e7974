package org.apache.spark.sql.helium

import scala.util.control.NonFatal

import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.internal.SQLConf

/** What the optimizer knows of the machines that a query will run on. */
object Cluster {

  /** Engines, one per node: as configured, else one for each host that has an executor now. */
  def engines(conf: SQLConf): Int = HeliumConf.int(conf, "spark.helium.cluster.engines") match {
    case 0 => hosts.max(1)
    case configured => configured
  }

  /** Partitions that give each engine as many tasks as it has cores, at the least one. */
  def partitions(engines: Int): Int = {
    val cores = context.map(_.defaultParallelism).getOrElse(engines)
    engines * math.ceil(cores.toDouble / engines).toInt.max(1)
  }

  private def hosts: Int = context.filterNot(_.isLocal).map { c =>
    try {
      val driver = c.env.blockManager.blockManagerId
      c.env.blockManager.master.getMemoryStatus.keys.filter(_ != driver).map(_.host).toSet.size
    } catch {
      case NonFatal(_) => 1 // a context that is going down
    }
  }.getOrElse(1)

  private def context = SparkSession.getActiveSession.map(_.sparkContext)
}
