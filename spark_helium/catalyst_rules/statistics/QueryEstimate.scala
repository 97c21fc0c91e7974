package org.apache.spark.sql.helium.statistics

import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.catalyst.trees.TreeNodeTag
import org.apache.spark.sql.helium.plans.EvalLLM

/**
 * What a whole query is expected to ask of engines, as a budget counts it: different prompts, each of
 * which is one call, and the tokens of these prompts with one token of answer each. How long answers
 * are is not known before they are there, and `max_tokens` is mostly far above it.
 *
 * @param calls measured where statistics or data alone tell it
 * @param tokens measured where that holds for the lengths of all texts too
 */
case class QueryEstimate(calls: Estimate, tokens: Estimate)

object QueryEstimate {

  /** On each EvalLLM node: the estimate of the query that it belongs to. */
  val tag: TreeNodeTag[QueryEstimate] = TreeNodeTag[QueryEstimate]("helium.queryEstimate")

  def of(plan: LogicalPlan): QueryEstimate = {
    // Equal nodes are computed once: behind an exchange that Spark reuses, or by the daemon.
    val nodes = plan.collectWithSubqueries { case node: EvalLLM => node }
    val distinct = nodes.filter(_.calls.forall(_.deterministic)).groupBy(_.canonicalized).map(_._2.head).toSeq ++
      nodes.filterNot(_.calls.forall(_.deterministic))
    val estimates = new CallEstimates()
    val all = distinct.flatMap { node =>
      estimates.of(node).zip(node.calls).map { case (e, call) =>
        // A call that is drawn anew for each row asks once per row, however often its prompt repeats.
        val asked = if (call.deterministic) e.distinct else e.calls
        // Below a limit most rows may never be asked.
        val measured = asked.measured && e.calls.measured && node.pace.isEmpty
        val known = measured && call.arguments.forall(estimates.plans.knowsLength(_, node))
        (asked.copy(measured = measured), Estimate(asked.value * (e.promptTokens + 1), known))
      }
    }
    QueryEstimate(sum(all.map(_._1)), sum(all.map(_._2)))
  }

  private def sum(estimates: Seq[Estimate]): Estimate =
    Estimate(estimates.map(_.value).sum, estimates.forall(_.measured))
}
