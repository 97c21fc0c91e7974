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
 * The guard of a call is its [[ReadCondition]] in the operator above. It may read the answer of an
 * earlier call, and a call that only another one reads runs where that one does. Where the guard is
 * not true the answer is NULL, and nobody looks.
 *
 * Declines for a condition that reads a later answer, is not deterministic, or holds a subquery, and
 * for an answer that leaves the operator above as it is.
 */
object GuardConditionalCalls extends HeliumRule("guardConditionalCalls") {

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = plan.transformDown {
    case p @ Project(list, node: EvalLLM) =>
      guarded(node, list)(n => p.copy(child = n)).getOrElse(p)
    case p @ Project(list, f @ Filter(condition, node: EvalLLM)) =>
      guarded(node, condition +: list)(n => p.copy(child = f.copy(child = n))).getOrElse(p)
    case a @ Aggregate(keys, list, node: EvalLLM, _) =>
      guarded(node, keys ++ list)(n => a.copy(child = n)).getOrElse(a)
  }

  private def guarded(node: EvalLLM, readers: Seq[Expression])(
      rebuild: EvalLLM => LogicalPlan): Option[LogicalPlan] = {
    val pairs = node.calls.zip(node.answers)
    val calls = pairs.zip(ReadCondition.of(pairs, node.child.outputSet, readers)).map {
      case ((call, _), Literal.TrueLiteral | Literal.FalseLiteral) => call
      case ((call, answer), condition) =>
        did(s"$answer runs when $condition")
        call.copy(guard = Some(condition))
    }
    if (calls == node.calls) None else Some(rebuild(node.copy(calls = calls)))
  }
}
