package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.optimizer._
import org.apache.spark.sql.catalyst.plans.logical.{LateralJoin, LogicalPlan}
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.helium.expressions.{AIAgg, LLMCall}

/**
 * Turns a correlated subquery that holds a call, or stands inside one, into a join at once, instead
 * of later.
 *
 * {{{
 *   Filter exists(Relation r, llm(l.x, r.y) = 'yes')     LeftSemi join ON llm(l.x, r.y) = 'yes'
 *   +- Relation l                                    =>  :- Relation l
 *                                                        +- Relation r
 * }}}
 *
 * Spark does the same with its own rules, but only after the point where calls are extracted. By
 * then a call in the condition of EXISTS, IN or LATERAL would be left in a join condition; one in a
 * correlated scalar subquery would never be seen, since its plan is not optimized on its own; and a
 * correlated scalar subquery in an argument would be in an operator where Spark does not look for
 * one. Must run before [[RewriteTwoSidedJoinCalls]] and [[ExtractLLMCalls]].
 */
object RewriteSubqueriesWithCalls extends Rule[LogicalPlan] {

  override def apply(plan: LogicalPlan): LogicalPlan = plan.transformUp {
    case join: LateralJoin if join.expressions.exists(LLMCall.isIn) ||
        join.right.children.exists(LLMCall.isIn) =>
      again(join, RewriteLateralSubquery(join))
    case node if node.expressions.exists(inScalarSubquery) =>
      again(node, RewriteCorrelatedScalarSubquery(node))
    case node if node.expressions.exists(inSubqueryCondition) =>
      again(node, RewritePredicateSubquery(node))
  }

  /** The join may hold further subqueries; what Spark's rule leaves alone stays as it is. */
  private def again(before: LogicalPlan, after: LogicalPlan): LogicalPlan =
    if (after.fastEquals(before)) before else apply(after)

  private def inScalarSubquery(e: Expression): Boolean = e.exists {
    case s: ScalarSubquery => s.isCorrelated && holdsCall(s.plan)
    case call: LLMCall => call.exists {
      case s: ScalarSubquery => s.isCorrelated
      case _ => false
    }
    case _ => false
  }

  private def inSubqueryCondition(e: Expression): Boolean = e.exists {
    case _: ScalarSubquery => false
    case s: SubqueryExpression => s.children.exists(LLMCall.isIn)
    case _ => false
  }

  private def holdsCall(plan: LogicalPlan): Boolean = plan.exists(_.expressions.exists(e =>
    LLMCall.isIn(e) || AIAgg.isIn(e) || inScalarSubquery(e)))
}
