package org.apache.spark.sql.helium.nodes

import com.codahale.metrics.{Gauge, MetricRegistry}

/**
 * An executor's daemons as gauges of Spark's metrics system, added up. They are there from the start,
 * and 0 as long as nothing is heard.
 */
private[helium] class DaemonGauges {

  @volatile private var health: Option[NodeHealth] = None

  def update(now: NodeHealth): Unit = health = Some(now)

  def register(registry: MetricRegistry): Unit = {
    DaemonGauges.ofDaemons.foreach { case (name, count) =>
      DaemonGauges.add(registry, name)(health.fold(0L)(_.daemons.map(count).sum))
    }
    DaemonGauges.add(registry, "healthAgeSeconds")(
      health.fold(-1L)(h => (System.currentTimeMillis() - h.at) / 1000))
  }
}

private[helium] object DaemonGauges {

  private def engines(sum: EngineHealth => Long): DaemonHealth => Long = _.engines.map(sum).sum

  private def counted(name: String): DaemonHealth => Long = _.counters.getOrElse(name, 0L)

  private def one(is: Boolean): Long = if (is) 1 else 0

  /** Name, and what it is of one daemon. */
  private[helium] val ofDaemons: Seq[(String, DaemonHealth => Long)] = Seq(
    "daemons" -> (_ => 1L),
    "up" -> (d => one(d.isUp)),
    "engines" -> engines(_ => 1),
    "enginesReady" -> engines(e => one(e.state == "ready")),
    "enginesFailed" -> engines(e => one(e.state == "failed")),
    "streams" -> (_.streams),
    "callsRunning" -> engines(_.callsRunning),
    "callsWaiting" -> engines(_.callsWaiting),
    "rowsAnswered" -> (_.rowsAnswered),
    "callsSent" -> counted("calls_sent"),
    "callsFailed" -> counted("calls_failed"),
    "callsRetried" -> counted("calls_retried"),
    "answersFromCache" -> counted("answers_from_cache"),
    "promptTokens" -> counted("prompt_tokens"),
    "cachedPromptTokens" -> counted("cached_prompt_tokens"),
    "outputTokens" -> counted("output_tokens"),
    "cacheEntries" -> (_.cacheEntries),
    "cacheBytes" -> (_.cacheBytes),
    "kvTokens" -> engines(_.kvTokens),
    "kvTokensMax" -> engines(e => e.kvBlocks * e.blockSize),
    "kvBlocksPinned" -> engines(_.pinnedBlocks))

  /** The driver's: how many daemons there are, and how many of them are up. Executors of one node share daemons. */
  def registerTotals(registry: MetricRegistry, board: HealthBoard): Unit = {
    def daemons = board.all.flatMap(h => h.daemons.map(d => (h.host, d.identity, d.log) -> d)).toMap.values
    add(registry, "executors")(board.all.size.toLong)
    add(registry, "daemons")(daemons.size.toLong)
    add(registry, "daemonsUp")(daemons.count(_.isUp).toLong)
  }

  private def add(registry: MetricRegistry, name: String)(value: => Long): Unit = {
    registry.register(name, new Gauge[Long] { override def getValue: Long = value })
    ()
  }
}
