package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions.SortOrder
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.helium.plans.{EvalLLM, SharedCalls}

/**
 * A call with a temperature and no seed runs once per row also below an operator that reads its input
 * twice: a global sort and a repartition by range, which take a sample first.
 *
 * {{{
 *   Sort [a#1], true                                Sort [a#1], true
 *   +- EvalLLM [a#1 = llm('..', temperature 1)]  => +- SharedCalls
 *                                                      +- EvalLLM [a#1 = llm('..', temperature 1)]
 * }}}
 *
 * The exchange keeps the answers that were drawn. It always runs: with or without other rules, a draw
 * is a call that the text asks for once.
 */
object MaterializeDraws extends Rule[LogicalPlan] {

  override def apply(plan: LogicalPlan): LogicalPlan =
    if (!plan.exists(draws)) plan else plan.transformDown {
      case s @ Sort(_, true, child, _) => below(s, child)
      case r @ RepartitionByExpression(by, child, _, _) if by.exists(_.isInstanceOf[SortOrder]) =>
        below(r, child)
    }

  private def draws(plan: LogicalPlan): Boolean = plan match {
    case node: EvalLLM => !node.calls.forall(_.deterministic)
    case _ => false
  }

  private def below(reader: UnaryNode, child: LogicalPlan): LogicalPlan =
    if (isRepeated(child)) reader.withNewChildren(Seq(SharedCalls(child))) else reader

  /** Whether a second reading of the plan would draw again. */
  private def isRepeated(plan: LogicalPlan): Boolean = plan match {
    // These read their input once, and keep it in an exchange.
    case _: SharedCalls | _: Aggregate | _: RepartitionOperation | _: Window => false
    case node if draws(node) => true
    case other => other.children.exists(isRepeated)
  }
}
