package org.apache.spark.sql.helium.execution

import java.util.UUID
import java.util.concurrent.ConcurrentHashMap

import org.apache.spark.SparkContext
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{Expression, Literal}
import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.sql.helium.HeliumConf
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.types.{LongType, StructType}
import org.apache.spark.util.AccumulatorV2

/**
 * What the node daemons counted, one long per name in [[UsageCounters.names]], summed on the
 * driver. Unlike an SQL metric it also counts what failed attempts of a task used: those calls were
 * made.
 */
class UsageCounters extends AccumulatorV2[Array[Long], Array[Long]] {

  private var counts = new Array[Long](UsageCounters.names.size)

  override def isZero: Boolean = counts.forall(_ == 0)

  override def copy(): UsageCounters = {
    val other = new UsageCounters
    other.counts = counts.clone()
    other
  }

  override def reset(): Unit = counts = new Array[Long](counts.length)

  override def add(delta: Array[Long]): Unit = delta.indices.foreach(i => counts(i) += delta(i))

  override def merge(other: AccumulatorV2[Array[Long], Array[Long]]): Unit = add(other.value)

  // A copy: the driver merges on one thread and reads on another.
  override def value: Array[Long] = counts.clone()
}

object UsageCounters {

  val function = "helium_usage"

  // Sums over tasks, from which the Python side makes means and shares.
  private def ofCascades: Seq[(String, String)] = Seq(
    "cascade_by_proxy" -> "rows decided by a cascade's proxy",
    "cascade_by_main" -> "rows that a cascade left to the main model",
    "cascade_labelled" -> "rows that the main model answered for a cascade's sample",
    "cascade_windows" -> "windows for which a cascade looked for thresholds",
    "cascade_found" -> "prompts of the samples that a cascade finds",
    "cascade_right" -> "prompts of the samples that a cascade finds rightly",
    "cascade_true" -> "prompts of the samples that are to be found",
    "cascade_lowers" -> "windows with a lower threshold",
    "cascade_lower_sum" -> "lower thresholds in millionths, added up",
    "cascade_uppers" -> "windows with an upper threshold",
    "cascade_upper_sum" -> "upper thresholds in millionths, added up")

  /** Name and meaning, in the order of the Python worker's `usage` struct. */
  val descriptions: Seq[(String, String)] = Seq(
    "calls_requested" -> "calls requested by the query",
    "calls_sent" -> "calls sent to the engine",
    "answers_from_cache" -> "answers from the prompt cache",
    "prompt_tokens" -> "prompt tokens",
    "cached_prompt_tokens" -> "prompt tokens found in the KV cache",
    "output_tokens" -> "output tokens",
    "calls_failed" -> "calls that failed",
    "calls_retried" -> "attempts that failed and were made again") ++ ofCascades

  val names: Seq[String] = descriptions.map(_._1)

  /** What a node without a cascade need not show. */
  val cascadeNames: Set[String] = ofCascades.map(_._1).toSet

  val schema: StructType = names.foldLeft(new StructType)(_.add(_, LongType))

  // Caching and streaming run in a clone of the session. A clone copies the session's settings, and
  // a new session does not, so a setting says whose counters they are.
  private val identity = s"${HeliumConf.internal}usage"

  private val byIdentity = new ConcurrentHashMap[String, UsageCounters]

  /** Gives the session an identity before it is cloned. */
  def identify(conf: SQLConf): String = conf.synchronized {
    if (!conf.contains(identity)) conf.setConfString(identity, UUID.randomUUID().toString)
    conf.getConfString(identity)
  }

  def of(conf: SQLConf, context: SparkContext): UsageCounters =
    byIdentity.computeIfAbsent(s"${context.applicationId} ${identify(conf)}", _ => register(context))

  private def register(context: SparkContext): UsageCounters = {
    val counters = new UsageCounters
    counters.register(context, Some("spark-helium usage"), countFailedValues = true)
    counters
  }

  /** `helium_usage()`: the session's counters at this moment, as a constant. */
  def build(arguments: Seq[Expression]): Expression = {
    if (arguments.nonEmpty) {
      throw HeliumErrors.templateArguments(function, "",
        s"it takes no arguments, and got ${arguments.size}")
    }
    val counts = of(SQLConf.get, SparkSession.active.sparkContext).value
    Literal.create(InternalRow.fromSeq(counts.toSeq), schema)
  }
}
