package org.apache.spark.sql.helium.plans

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions.ExprId
import org.apache.spark.sql.catalyst.plans.logical.{LogicalPlan, Project}
import org.apache.spark.sql.helium.expressions.LLMCall

/**
 * A node as nodes that the daemon can run, each one call graph.
 *
 * A rule, Spark's or ours, may leave an expression between two calls that is not [[Glue]]. Spark then
 * computes it, between a node with the first call and a node with the second.
 */
object CallLevels {

  /** The node itself where one call graph holds it. */
  def divided(node: EvalLLM): LogicalPlan = {
    val level = mutable.Map.empty[ExprId, Int]
    val pairs = node.calls.zip(node.answers)
    pairs.foreach { case (call, answer) =>
      val read = call.references.toSeq.flatMap(a => level.get(a.exprId))
      val lowest = read.maxOption.getOrElse(0)
      val beside = pairs.collect {
        case (other, a) if level.get(a.exprId).contains(lowest) => a.exprId -> other
      }.toMap
      level(answer.exprId) = if (isWithin(call, beside)) lowest else lowest + 1
    }
    if (level.values.forall(_ == 0)) {
      node
    } else {
      val nodes = pairs.groupBy { case (_, a) => level(a.exprId) }
        .toSeq.sortBy(_._1).map(_._2)
      val stacked = nodes.foldLeft(node.child) { case (below, calls) =>
        EvalLLM(calls.map(_._1), calls.map(_._2), below, node.notes)
      }
      // Those below are read ahead, however few rows a limit wants.
      Project(node.output, stacked match {
        case top: EvalLLM => top.copy(pace = node.pace)
        case other => other
      })
    }
  }

  /** Whether a call can stand in one call graph with the given calls, by the ids of their answers. */
  private def isWithin(call: LLMCall, calls: Map[ExprId, LLMCall]): Boolean =
    call.arguments.forall(Glue.isText(_, calls)) && call.guard.forall(Glue.isCondition(_, calls))
}
