package org.apache.spark.sql.helium.nodes

import scala.jdk.CollectionConverters._

import com.codahale.metrics.MetricRegistry

import org.apache.spark.sql.helium.testing.HeliumSuite

class NodeHealthSuite extends HeliumSuite {

  private def daemon(state: String, pid: Int = 7, engine: String = "ready", identity: String = "d"): String = {
    val status = if (state != "up") "null" else {
      s"""{"pid": $pid, "streams": 2, "rows_answered": 40, "cache_entries": 3, "cache_bytes": 300, "uptime": 1.5,
         | "counters": {"calls_sent": 5, "prompt_tokens": 50}, "engines": [{"model": "m", "kind": "generate",
         | "state": "$engine", "calls_in_flight": 4, "calls_waiting": 6, "kv_blocks": 100, "block_size": 16,
         | "kv_tokens": 320, "pin_blocks": 8}]}""".stripMargin
    }
    s"""{"identity": "$identity", "gpus": "0", "log": "/l", "state": "$state", "reason": "why", "status": $status}"""
  }

  private def health(daemons: String*): NodeHealth =
    NodeHealth.parse(daemons.mkString("""{"daemons": [""", ",", "]}")).copy(executor = "1", host = "h", at = 9)

  private def changes(before: Option[NodeHealth], now: NodeHealth): Seq[(Boolean, String)] =
    HealthBoard.changes(before, now).map { case (warning, line) =>
      warning -> line.stripPrefix("spark-helium, executor 1 on h: ")
    }

  test("what the Python side writes is read, and travels to the driver") {
    val now = health(daemon("up"), daemon("crashed", identity = "e"))
    equal(NodeHealth.parse(now.toJson), now)
    equal(now.daemons.map(d => (d.identity, d.isUp, d.pid)), Seq(("d", true, Some(7L)), ("e", false, None)))
    equal(now.daemons.head.engines, Seq(EngineHealth("m", "generate", "ready", 4, 6, 100, 16, 320, 8)))
  }

  test("the log has a line when a daemon comes, goes, or is another one") {
    val up = health(daemon("up"))
    equal(changes(None, up), Seq(false -> "daemon d (GPU 0) is up as process 7"))
    equal(changes(Some(up), up), Nil)
    val crashed = health(daemon("crashed"))
    equal(changes(Some(up), crashed), Seq(true -> "daemon d (GPU 0) is down: why. Its log there: /l"))
    equal(changes(Some(crashed), crashed), Nil)
    equal(changes(Some(up), health(daemon("up", pid = 8))), Seq(false -> "daemon d (GPU 0) is up as process 8"))
    // It was idle: nothing to worry about.
    equal(changes(Some(up), health(daemon("stopped"))).map(_._1), Seq(false))
  }

  test("an engine that did not start is told once") {
    val failed = health(daemon("up", engine = "failed"))
    val line = true -> "the engine of model m did not start. The daemon's log there: /l"
    equal(changes(Some(health(daemon("up"))), failed), Seq(line))
    equal(changes(Some(failed), failed), Nil)
  }

  test("a supervisor that ended is told once") {
    val silent = NodeHealth.parse(NodeHealth.silent("it ended")).copy(executor = "1", host = "h")
    equal(changes(None, silent), Seq(true -> "it ended"))
    equal(changes(Some(silent), silent), Nil)
  }

  test("the board keeps the last health of each executor") {
    val board = HealthBoard.open()
    board.update(health(daemon("crashed")).toJson)
    board.update(health(daemon("up")).toJson)
    board.update(health(daemon("up")).copy(executor = "2").toJson)
    equal(board.all.map(h => h.executor -> h.daemons.map(_.state)), Seq("1" -> Seq("up"), "2" -> Seq("up")))
    val registry = new MetricRegistry
    DaemonGauges.registerTotals(registry, board)
    // One host, one daemon, whichever executor tells of it.
    equal(gauges(registry), Map("executors" -> 2L, "daemons" -> 1L, "daemonsUp" -> 1L))
    board.remove("1")
    equal(NodeHealth.parse(HealthBoard.json.drop(1).dropRight(1)).executor, "2")
    board.close()
    equal(HealthBoard.json, "[]")
  }

  test("gauges add up the daemons of an executor") {
    val registry = new MetricRegistry
    val gauges = new DaemonGauges
    gauges.register(registry)
    equal(this.gauges(registry)("up"), 0L)
    gauges.update(health(daemon("up"), daemon("up", engine = "failed", identity = "e"), daemon("crashed", identity = "f")))
    val values = this.gauges(registry)
    val expected = Map("daemons" -> 3, "up" -> 2, "engines" -> 2, "enginesReady" -> 1, "enginesFailed" -> 1,
      "callsRunning" -> 8, "callsWaiting" -> 12, "callsSent" -> 10, "promptTokens" -> 100, "kvTokens" -> 640,
      "kvTokensMax" -> 3200, "kvBlocksPinned" -> 16, "cacheBytes" -> 600, "rowsAnswered" -> 80, "streams" -> 4)
    expected.foreach { case (name, value) => equal(values(name), value.toLong, name) }
  }

  private def gauges(registry: MetricRegistry): Map[String, Any] =
    registry.getGauges.asScala.map { case (name, gauge) => name -> gauge.getValue }.toMap
}
