package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions.SortOrder
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.execution.columnar.InMemoryRelation
import org.apache.spark.sql.helium.plans.EvalLLM

/** The order in which a query's text wants the rows of a plan. */
private[rules] object RowOrder {

  /**
   * The order that the last global sort below gives, through operators that pass rows on one by one;
   * None where rows have no order that anybody may count on. Spark's own `outputOrdering` of a
   * logical plan ends at a limit.
   */
  def of(plan: LogicalPlan): Option[Seq[SortOrder]] = plan match {
    case Sort(order, true, _, _) => Some(order)
    // Whoever sorted before caching finds the rows sorted.
    case cached: InMemoryRelation => Option.when(cached.outputOrdering.nonEmpty)(cached.outputOrdering)
    case _: Project | _: Filter | _: LocalLimit | _: GlobalLimit | _: Offset | _: Tail | _: Sample |
        _: SubqueryAlias | _: EvalLLM => of(plan.children.head)
    case _ => None
  }

  /** Whether the order can be made again from the plan's own columns. */
  def isWithin(order: Seq[SortOrder], plan: LogicalPlan): Boolean =
    order.forall(_.references.subsetOf(plan.outputSet))
}
