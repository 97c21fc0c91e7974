package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.{Cluster, HeliumRule}
import org.apache.spark.sql.helium.plans.{CallGraph, EvalLLM}
import org.apache.spark.sql.types.BooleanType

/**
 * On a cluster, rows go to the engines so that all engines work, and prompts that begin alike meet.
 *
 * {{{
 *   EvalLLM [a#1 = llm('{0} .. {1}?', product, body)]
 *   +- R [product, body]
 * =>
 *   EvalLLM [a#1 = llm('{0} .. {1}?', product, body)]
 *   +- RepartitionByExpression [product ASC, body ASC], 16
 *      +- R [product, body]
 * }}}
 *
 * The partitions are ranges of the calls' inputs in the order in which the prompt reads them. Rows with
 * the same leading columns are neighbours, so they share a partition, or two partitions next to each
 * other; equal inputs always share one, so that no two nodes compute the same prompt. Spark cuts the
 * ranges by a sample of the rows, so that a frequent leading value spreads over as many partitions as
 * its share of the rows asks for: that is the bound on skew. A small input in one partition
 * spreads in the same way. The number of partitions is given, so that adaptive execution does not put
 * them together again.
 *
 * Below a global sort the sort's own order decides on the ranges, since the order of rows has to
 * stay.
 *
 * Declines on a single engine, which one task keeps busy; where rows were repartitioned right below
 * on purpose; for a stream; and where calls run below, which the sample would run again.
 */
object PlaceByPrefix extends HeliumRule("placeByPrefix") {

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = {
    val engines = Cluster.engines(conf)
    plan.transformUp {
      case node: EvalLLM if isPlaced(node.child) => node
      case node: EvalLLM if engines < 2 => declined(node, "there is one engine", routine = true)
      case node: EvalLLM => obstacle(node).fold(placed(node, engines))(declined(node, _))
    }
  }

  private def obstacle(node: EvalLLM): Option[String] =
    if (node.child.isStreaming) Some("the input is a stream")
    else if (node.child.exists(_.isInstanceOf[EvalLLM])) {
      Some("calls run below, and a sample of their rows would run them again")
    } else if (node.child.maxRows.exists(_ <= 1)) Some("there is one row")
    else RowOrder.of(node.child) match {
      case RowOrder.Fixed(reason) => Some(reason)
      case _ => None
    }

  /** Whether this rule, or the order that the query asks for, spread the rows already. */
  private def isPlaced(child: LogicalPlan): Boolean = child match {
    case RepartitionByExpression(order, _, Some(_), _) => order.forall(_.isInstanceOf[SortOrder])
    case Sort(_, true, RepartitionByExpression(_, _, Some(_), _), _) => true
    case _ => false
  }

  private def placed(node: EvalLLM, engines: Int): EvalLLM = {
    val partitions = Cluster.partitions(engines)
    (node.child, RowOrder.of(node.child)) match {
      case (sort @ Sort(order, true, below, _), _) =>
        did(s"rows in ranges of their order, in $partitions partitions")
        node.copy(child = sort.copy(child =
          RepartitionByExpression(order, below, Some(partitions))))
      case (child, RowOrder.Sorted(order)) =>
        did(s"rows in ranges of their order, in $partitions partitions")
        node.copy(child = Sort(order, global = true,
          RepartitionByExpression(order, child, Some(partitions))))
      case (child, _) =>
        val inputs = CallGraph.inputsOf(node.calls, node.answers).filter(e =>
          e.deterministic && !e.foldable && e.dataType != BooleanType &&
            RowOrdering.isOrderable(e.dataType) && !SubqueryExpression.hasSubquery(e))
        val by = if (inputs.isEmpty) Nil else inputs.map(SortOrder(_, Ascending))
        did(if (by.isEmpty) s"rows spread over $partitions partitions"
          else s"rows in ranges of ${by.map(_.child).mkString(", ")}, in $partitions partitions")
        node.copy(child = RepartitionByExpression(by, child, Some(partitions)))
    }
  }
}
