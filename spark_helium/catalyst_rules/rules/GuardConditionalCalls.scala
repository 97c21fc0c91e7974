package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions.{Expression, Literal}
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.plans.EvalLLM

/**
 * A call whose answer matters only in one branch runs only for the rows that take the branch.
 *
 * {{{
 *   Project [CASE WHEN id < 100 THEN llm#1 END]
 *   +- EvalLLM [llm#1 = llm('..', x)]
 * =>
 *   Project [CASE WHEN id < 100 THEN llm#1 END]
 *   +- EvalLLM [llm#1 = llm('..', x) when (id < 100) <=> true]
 * }}}
 *
 * The guard of a call is its [[ReadCondition]] in the operators above, up to the first one with an
 * output of its own. It may read the answer of an
 * earlier call, and a call that only another one reads runs where that one does. Where the guard is
 * not true the answer is NULL, and nobody looks.
 *
 * Declines for a condition that reads a later answer, is not deterministic, or holds a subquery, and
 * for an answer that leaves the operator above as it is.
 */
object GuardConditionalCalls extends HeliumRule("guardConditionalCalls") {

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = plan.transformDown {
    case top @ (_: Project | _: Aggregate) =>
      guardedBelow(top.children.head, top.expressions)
        .fold(top)(child => top.withNewChildren(Seq(child)))
  }

  /** The plan with guards on its next node, through operators that pass columns on unread. */
  private def guardedBelow(plan: LogicalPlan, readers: Seq[Expression]): Option[LogicalPlan] =
    plan match {
      case node: EvalLLM =>
        val here = guarded(node, readers).getOrElse(node)
        val below = guardedBelow(node.child, readers ++ here.expressions)
        below.map(c => here.copy(child = c)).orElse(Option.when(here ne node)(here))
      case op @ (_: Filter | _: Sort | _: LocalLimit | _: GlobalLimit | _: Offset | _: Sample |
          _: Window) =>
        guardedBelow(op.children.head, readers ++ op.expressions)
          .map(child => op.withNewChildren(Seq(child)))
      case _ => None
    }

  private def guarded(node: EvalLLM, readers: Seq[Expression]): Option[EvalLLM] = {
    val pairs = node.calls.zip(node.answers)
    val calls = pairs.zip(ReadCondition.of(pairs, node.child.outputSet, readers)).map {
      case ((call, _), Literal.TrueLiteral | Literal.FalseLiteral) => call
      case ((call, answer), condition) =>
        did(s"$answer runs when $condition")
        call.copy(guard = Some(condition))
    }
    if (calls == node.calls) None else Some(node.copy(calls = calls))
  }
}
