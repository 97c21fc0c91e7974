package org.apache.spark.sql.helium.nodes

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.sql.helium.plans.CallGraph

/** An engine of a daemon, as `EngineStatus` in `messages.py` has it. */
case class EngineHealth(
    model: String,
    kind: String,
    state: String,
    callsRunning: Long,
    callsWaiting: Long,
    kvBlocks: Long,
    blockSize: Long,
    kvTokens: Long,
    pinnedBlocks: Long)

/**
 * One look at a daemon.
 *
 * @param state up, stopped, crashed, unresponsive or failed; see `supervisor.py`
 * @param counters what the daemon has counted since it began, by name
 */
case class DaemonHealth(
    identity: String,
    gpus: String,
    log: String,
    state: String,
    reason: String,
    pid: Option[Long],
    streams: Long,
    rowsAnswered: Long,
    cacheEntries: Long,
    cacheBytes: Long,
    counters: Map[String, Long],
    engines: Seq[EngineHealth]) {

  def isUp: Boolean = state == "up"

  def name: String = s"daemon $identity" + (if (gpus.isEmpty) "" else s" (GPU $gpus)")
}

/**
 * What an executor last heard of its daemons.
 *
 * @param at when, in milliseconds since 1970
 * @param reason why nothing is heard; empty while it is
 * @param json the daemons as the Python side wrote them
 */
case class NodeHealth(
    executor: String, host: String, at: Long, reason: String, daemons: Seq[DaemonHealth], private val json: JValue) {

  def toJson: String = CallGraph.render(JObject(
    "executor" -> JString(executor),
    "host" -> JString(host),
    "at" -> JLong(at),
    "reason" -> JString(reason),
    "daemons" -> json))
}

object NodeHealth {

  /** Reads a line of `supervisor.py`, or [[NodeHealth.toJson]]. */
  def parse(line: String): NodeHealth = {
    val json = JsonMethods.parse(line)
    val daemons = items(json \ "daemons")
    NodeHealth(text(json, "executor"), text(json, "host"), number(json, "at"), text(json, "reason"),
      daemons.map(daemon), JArray(daemons))
  }

  /** Nothing is heard of the daemons. */
  def silent(reason: String): String =
    CallGraph.render(JObject("daemons" -> JArray(Nil), "reason" -> JString(reason)))

  private def daemon(json: JValue): DaemonHealth = {
    val status = json \ "status"
    val counters = status \ "counters" match {
      case JObject(fields) => fields.map { case (name, value) => name -> long(value) }.toMap
      case _ => Map.empty[String, Long]
    }
    DaemonHealth(
      text(json, "identity"), text(json, "gpus"), text(json, "log"), text(json, "state"), text(json, "reason"),
      Some(number(status, "pid")).filter(_ > 0),
      number(status, "streams"), number(status, "rows_answered"), number(status, "cache_entries"),
      number(status, "cache_bytes"), counters, items(status \ "engines").map(engine))
  }

  private def engine(json: JValue): EngineHealth = EngineHealth(
    text(json, "model"), text(json, "kind"), text(json, "state"), number(json, "calls_in_flight"),
    number(json, "calls_waiting"), number(json, "kv_blocks"), number(json, "block_size"), number(json, "kv_tokens"),
    number(json, "pin_blocks"))

  private def items(json: JValue): List[JValue] = json match {
    case JArray(found) => found
    case _ => Nil
  }

  private def text(json: JValue, name: String): String = json \ name match {
    case JString(found) => found
    case _ => ""
  }

  private def number(json: JValue, name: String): Long = long(json \ name)

  private def long(json: JValue): Long = json match {
    case JInt(found) => found.toLong
    case JLong(found) => found
    case JDouble(found) => found.toLong
    case _ => 0
  }
}
