package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions.{Attribute, AttributeSet}
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.expressions.LLMCall
import org.apache.spark.sql.helium.plans.EvalLLM

/**
 * Drops calls whose answer nobody reads, and the node when no call is left.
 *
 * {{{
 *   Project [id]                                 Project [id]
 *   +- EvalLLM [llm#1 = llm('..', x)]      =>    +- Relation [id, x]
 *      +- Relation [id, x]
 * }}}
 *
 * A call that another call of the node reads stays. The errors of a dropped call are not seen, also
 * with `failOnError => true`: like a column that nobody selects, it is not computed.
 */
object PruneUnusedCalls extends HeliumRule("pruneUnusedCalls") {

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = plan.transformDown {
    case p: Project => pruneBelow(p)
    case a: Aggregate => pruneBelow(a)
  }

  /** An operator with an output of its own is where it shows what is read. */
  private def pruneBelow(node: UnaryNode): LogicalPlan = {
    val child = pruneThrough(node.child, node.references)
    if (child eq node.child) node else node.withNewChildren(Seq(child))
  }

  private def pruneThrough(plan: LogicalPlan, read: AttributeSet): LogicalPlan = plan match {
    case node: EvalLLM =>
      prune(node, read) match {
        case kept: EvalLLM => withChild(kept, pruneThrough(kept.child, read ++ kept.references))
        case child => pruneThrough(child, read)
      }
    case node @ (_: Filter | _: Sort | _: GlobalLimit | _: LocalLimit | _: Sample) =>
      withChild(node, pruneThrough(node.children.head, read ++ node.references))
    case other => other
  }

  private def withChild(node: LogicalPlan, child: LogicalPlan): LogicalPlan =
    if (child eq node.children.head) node else node.withNewChildren(Seq(child))

  private def prune(node: EvalLLM, read: AttributeSet): LogicalPlan = {
    val (needed, _) = node.calls.zip(node.answers)
      .foldRight((List.empty[(LLMCall, Attribute)], read)) {
        case ((call, answer), (kept, wanted)) =>
          if (wanted.contains(answer)) ((call, answer) :: kept, wanted ++ call.references)
          else (kept, wanted)
      }
    if (needed.size == node.calls.size) {
      node
    } else if (needed.isEmpty) {
      node.child
    } else {
      node.copy(calls = needed.map(_._1), answers = needed.map(_._2))
    }
  }
}
