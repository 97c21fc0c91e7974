package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.optimizer.{RewriteCorrelatedScalarSubquery, RewritePredicateSubquery}
import org.apache.spark.sql.catalyst.plans.logical.LogicalPlan
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.helium.expressions.LLMCall

/**
 * Turns a correlated subquery that holds a call into a join at once, instead of later.
 *
 * {{{
 *   Filter exists(Relation r, llm(l.x, r.y) = 'yes')     LeftSemi join ON llm(l.x, r.y) = 'yes'
 *   +- Relation l                                    =>  :- Relation l
 *                                                        +- Relation r
 * }}}
 *
 * Spark does the same with its own rules, but only after the point where calls are extracted: a
 * call in the condition of EXISTS or IN would be left in a join condition, and one in a correlated
 * scalar subquery would never be seen, since its plan is not optimized on its own. Must run before
 * [[RewriteTwoSidedJoinCalls]] and [[ExtractLLMCalls]].
 */
object RewriteSubqueriesWithCalls extends Rule[LogicalPlan] {

  override def apply(plan: LogicalPlan): LogicalPlan = plan.transformUp {
    case node if node.expressions.exists(inScalarSubquery) =>
      apply(RewriteCorrelatedScalarSubquery(node))
    case node if node.expressions.exists(inSubqueryCondition) =>
      apply(RewritePredicateSubquery(node))
  }

  private def inScalarSubquery(e: Expression): Boolean = e.exists {
    case s: ScalarSubquery => s.isCorrelated && holdsCall(s.plan)
    case _ => false
  }

  private def inSubqueryCondition(e: Expression): Boolean = e.exists {
    case _: ScalarSubquery => false
    case s: SubqueryExpression => s.children.exists(LLMCall.isIn)
    case _ => false
  }

  private def holdsCall(plan: LogicalPlan): Boolean = plan.exists(_.expressions.exists(e =>
    LLMCall.isIn(e) || inScalarSubquery(e)))
}
