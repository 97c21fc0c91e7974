package org.apache.spark.sql.helium.statistics

import scala.util.control.NonFatal

import org.apache.spark.{SparkException, SparkThrowable}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions.{Left => _, Right => _, _}
import org.apache.spark.sql.catalyst.planning.ExtractEquiJoinKeys
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.SQLExecution
import org.apache.spark.sql.helium.expressions.{LLMCall, Predicates}
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.internal.SQLConf

/**
 * Some rows of a plan while it is optimized, where they are cheap to have: from local data, or by a job
 * over a few partitions of files and caches. What only moves, sorts or cuts rows is left out
 * on the way to them. A job reads nothing but what is [[Harmless]].
 */
object FieldSample {

  /** Why there is no sample, and whether that lasts: a job that failed may succeed the next time. */
  case class Missing(reason: String, lasts: Boolean = true)

  /** Rows are read from this many partitions, spread over the input. */
  private val partitions = 8

  /**
   * Values of the expressions for at most `most` rows, or why there are none.
   *
   * @param most rows; 0 for local data only, in which case at most `mostLocal` of them are looked at
   */
  def of(values: Seq[Expression], plan: LogicalPlan, most: Int): Either[Missing, Seq[InternalRow]] =
    obstacle(values, plan).map(reason => Left(Missing(reason))).getOrElse(try source(values, plan) match {
      case Right(local: LocalRelation) => Right(fromLocal(values, local, if (most > 0) most else mostLocal))
      case Right(_) if most == 0 =>
        Left(Missing("no job may read a sample (spark.helium.optimizer.orderFields.sampleRows = 0)"))
      case Right(found) => SparkSession.getActiveSession
        .fold[Either[Missing, Seq[InternalRow]]](Left(Missing("there is no session to read a sample", lasts = false)))(
          session => Right(fromJob(values, found, session, most)))
      case Left(reason) => Left(Missing(reason))
    } catch {
      case e: SparkException if isCancelled(e) => throw e // the query itself was to end
      // Whatever a row makes fail is the query's business, not ours.
      case NonFatal(e) => Left(Missing(s"reading a sample failed: ${message(e)}", lasts = false))
    })

  private val mostLocal = 10000

  private def isCancelled(e: SparkThrowable): Boolean = e.getCondition == "SPARK_JOB_CANCELLED"

  private def message(e: Throwable): String =
    Option(e.getMessage).getOrElse(e.getClass.getSimpleName).linesIterator.nextOption().getOrElse("").take(200)

  private def obstacle(values: Seq[Expression], plan: LogicalPlan): Option[String] =
    if (plan.isStreaming) Some("the input is a stream")
    else if (plan.exists(asks)) Some("calls run below, and a sample would run them")
    else values.find(!_.references.subsetOf(plan.outputSet)).map(e => s"$e reads an answer")
      .orElse((values ++ plan.collect { case node => node.expressions }.flatten)
        .find(!Predicates.isMovable(_))
        .map(e => s"$e is not deterministic, a subquery or a user's function"))

  /** Whether a node makes calls. */
  private def asks(plan: LogicalPlan): Boolean = plan match {
    case _: EvalLLM => true
    case other => LLMCall.firstIn(other.expressions).nonEmpty
  }

  /** The plan to read from. */
  private def source(values: Seq[Expression], plan: LogicalPlan): Either[String, LogicalPlan] = {
    val read = AttributeSet(values.flatMap(_.references))
    val found = narrowed(plan, read)
    Harmless.obstacle(found).orElse(Option.unless(isNarrow(found) || isSmall(found))(
      "the input is neither a table with filters nor made of small ones")).toLeft(found)
  }

  /** The part of a plan that has the values that are read, without operators that only move or repeat rows. */
  private def narrowed(plan: LogicalPlan, read: AttributeSet): LogicalPlan = plan match {
    case _: Sort | _: Repartition | _: RepartitionByExpression | _: RebalancePartitions | _: Sample |
        _: LocalLimit | _: GlobalLimit | _: SubqueryAlias | _: Window | _: Generate
        if read.subsetOf(plan.children.head.outputSet) => narrowed(plan.children.head, read)
    case Join(left, _, _, _, _) if read.subsetOf(left.outputSet) => narrowed(left, read)
    case Join(_, right, _, _, _) if read.subsetOf(right.outputSet) => narrowed(right, read)
    case p: Project => below(p, narrowed(p.child, p.references))
    case f: Filter => below(f, narrowed(f.child, read ++ f.references))
    case other => other
  }

  private def below(plan: UnaryNode, child: LogicalPlan): LogicalPlan =
    if (child eq plan.child) plan else plan.withNewChildren(Seq(child))

  private def isNarrow(plan: LogicalPlan): Boolean = plan match {
    case _: Project | _: Filter | _: Union => plan.children.forall(isNarrow)
    case other => other.children.isEmpty
  }

  /**
   * Whether all that a plan reads is what Spark would send to every node, and no join has all pairs of
   * rows to look at: of small tables these may be many.
   */
  private def isSmall(plan: LogicalPlan): Boolean =
    plan.collectLeaves().map(_.stats.sizeInBytes).sum <= SQLConf.get.autoBroadcastJoinThreshold &&
      !plan.exists {
        case join: Join => ExtractEquiJoinKeys.unapply(join).isEmpty && !join.children.exists(_.maxRows.exists(_ <= 1))
        case _ => false
      }

  private def fromLocal(values: Seq[Expression], local: LocalRelation, most: Int): Seq[InternalRow] = {
    val project = SafeProjection.create(values, local.output)
    runs(local.data.size, most).flatMap { case (from, until) => local.data.slice(from, until) }
      .map(row => project(row).copy())
  }

  /** Neighbours may be alike, as in the input: whole runs of rows, spread over it. */
  private def runs(size: Int, most: Int): Seq[(Int, Int)] =
    if (size <= most) {
      Seq((0, size))
    } else {
      val each = (most / partitions).max(1)
      (0 until partitions.min(most)).map { i =>
        val from = (size.toLong * i / partitions).toInt
        (from, (from + each).min(size))
      }
    }

  private def fromJob(
      values: Seq[Expression], plan: LogicalPlan, session: SparkSession, most: Int): Seq[InternalRow] = {
    val query = Project(values.zipWithIndex.map { case (v, i) => Alias(v, s"f$i")() }, plan)
    val execution = session.sessionState.executePlan(query)
    SQLExecution.withSQLConfPropagated(session) {
      val context = session.sparkContext
      val rows = execution.executedPlan.execute()
      val all = rows.getNumPartitions
      val chosen = if (all <= partitions) 0 until all
        else (0 until partitions).map(i => (all.toLong * i / partitions).toInt)
      val each = (most + chosen.size - 1) / chosen.size.max(1)
      context.runJob(rows, FieldSample.firstRows(each), chosen).flatten.toSeq
    }
  }

  private def firstRows(most: Int): Iterator[InternalRow] => Array[InternalRow] =
    _.take(most).map(_.copy()).toArray
}
