package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions.{Attribute, Expression}
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.expressions.Predicates
import org.apache.spark.sql.helium.plans.EvalLLM

/**
 * A guard loses the conditions that every row of the input meets.
 *
 * {{{
 *   EvalLLM [llm#1 = llm('..', x) when (id < 100) <=> true AND y IS NOT NULL]
 *   +- Filter (id < 100)
 * =>
 *   EvalLLM [llm#1 = llm('..', x) when y IS NOT NULL]
 *   +- Filter (id < 100)
 * }}}
 *
 * A filter that is pushed below its calls leaves such guards behind. Without them the columns that
 * only they read can be pruned, and equal calls are recognised. Looks at filters right below, through
 * projections of columns, and has the switch of [[GuardConditionalCalls]].
 */
object DropImpliedGuards extends HeliumRule("guardConditionalCalls") {

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = plan.transformUp {
    case node: EvalLLM if node.calls.exists(_.guard.isDefined) =>
      val met = new Predicates.Met(conditions(node.child))
      val calls = node.calls.map(c => c.copy(guard = c.guard.flatMap(g =>
        Predicates.conjunction(Predicates.conjuncts(g).filterNot(met.implies)))))
      if (calls == node.calls) node else node.copy(calls = calls)
  }

  private def conditions(plan: LogicalPlan): Seq[Expression] = plan match {
    case Filter(condition, child) =>
      Predicates.conjuncts(condition) ++ conditions(child)
    case Project(list, child) if list.forall(_.isInstanceOf[Attribute]) => conditions(child)
    case _: RepartitionByExpression | _: Sort => conditions(plan.children.head)
    case _ => Nil
  }
}
