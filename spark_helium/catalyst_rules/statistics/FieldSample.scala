package org.apache.spark.sql.helium.statistics

import scala.util.control.NonFatal

import org.apache.spark.{SparkException, SparkThrowable}
import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.catalog.HiveTableRelation
import org.apache.spark.sql.catalyst.expressions.{Left => _, Right => _, _}
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.classic.SparkSession
import org.apache.spark.sql.execution.{LogicalRDD, SQLExecution}
import org.apache.spark.sql.execution.columnar.InMemoryRelation
import org.apache.spark.sql.execution.datasources.{HadoopFsRelation, LogicalRelation}
import org.apache.spark.sql.execution.datasources.v2.DataSourceV2ScanRelation
import org.apache.spark.sql.helium.expressions.{LLMCall, Predicates}
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.internal.SQLConf

/**
 * Some rows of a plan while it is optimized, where they are cheap to have: from local data, or by a job
 * over a few partitions of files and caches. What only moves, sorts or cuts rows is left out
 * on the way to them.
 */
object FieldSample {

  /** Rows are read from this many partitions, spread over the input. */
  private val partitions = 8

  /**
   * Values of the expressions for at most `most` rows, or why there are none.
   *
   * @param most rows; 0 for local data only, in which case at most `mostLocal` of them are looked at
   */
  def of(values: Seq[Expression], plan: LogicalPlan, most: Int): Either[String, Seq[InternalRow]] =
    obstacle(values, plan).map(Left(_)).getOrElse(try source(values, plan) match {
      case Right(local: LocalRelation) => Right(fromLocal(values, local, if (most > 0) most else mostLocal))
      case Right(_) if most == 0 => Left("no job may read a sample (spark.helium.optimizer.orderFields.sampleRows = 0)")
      case Right(found) => SparkSession.getActiveSession
        .fold[Either[String, Seq[InternalRow]]](Left("there is no session to read a sample"))(session =>
          Right(fromJob(values, found, session, most)))
      case Left(reason) => Left(reason)
    } catch {
      case e: SparkException if isCancelled(e) => throw e // the query itself was to end
      // Whatever a row makes fail is the query's business, not ours.
      case NonFatal(e) => Left(s"reading a sample failed: ${message(e)}")
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

  /** Whether a plan makes calls, be it to fill a cache. */
  private def asks(plan: LogicalPlan): Boolean = plan match {
    case _: EvalLLM => true
    case cached: InMemoryRelation => cached.cacheBuilder.logicalPlan.exists(asks)
    case other => LLMCall.firstIn(other.expressions).nonEmpty
  }

  /** The plan to read from. */
  private def source(values: Seq[Expression], plan: LogicalPlan): Either[String, LogicalPlan] = {
    val read = AttributeSet(values.flatMap(_.references))
    val found = narrowed(plan, read)
    if (found.isInstanceOf[LocalRelation] || isNarrow(found)) Right(found)
    else if (found.collectLeaves().forall(isReadable) && isSmall(found)) Right(found)
    else Left("the input is neither a table with filters nor made of small ones")
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
    case leaf => isReadable(leaf)
  }

  private def isReadable(leaf: LogicalPlan): Boolean = leaf match {
    case LogicalRelation(_: HadoopFsRelation, _, _, _, _) => true
    case _: LocalRelation | _: InMemoryRelation | _: Range | _: LogicalRDD | _: HiveTableRelation |
        _: OneRowRelation | _: DataSourceV2ScanRelation => true
    case _ => false
  }

  /** Whether all that a plan reads is what Spark would send to every node. */
  private def isSmall(plan: LogicalPlan): Boolean =
    plan.collectLeaves().map(_.stats.sizeInBytes).sum <= SQLConf.get.autoBroadcastJoinThreshold

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
