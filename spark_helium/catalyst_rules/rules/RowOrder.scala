package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions.SortOrder
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.execution.columnar.InMemoryRelation
import org.apache.spark.sql.helium.plans.EvalLLM

/** The order and the partitions in which a query's text wants the rows of a plan. */
private[rules] sealed trait RowOrder

private[rules] object RowOrder {

  /** Nobody may count on an order. */
  case object None extends RowOrder

  /** A global order, which can be made again from the plan's columns. */
  case class Sorted(order: Seq[SortOrder]) extends RowOrder

  /** An order or a partitioning that would be lost. */
  case class Fixed(reason: String) extends RowOrder

  /**
   * The order that the last sort or repartitioning below gives, through operators that pass rows on
   * within their partition. Spark's own `outputOrdering` of a logical plan ends at a limit.
   */
  def of(plan: LogicalPlan): RowOrder = plan match {
    case Sort(order, true, _, _) => Sorted(order)
    case _: Sort => Fixed("the query sorts its rows within partitions")
    case _: RepartitionOperation => Fixed("the query repartitions its rows itself")
    // Whoever sorted before caching finds the rows sorted.
    case cached: InMemoryRelation =>
      if (cached.outputOrdering.isEmpty) None else Sorted(cached.outputOrdering)
    case _: Project | _: Filter | _: LocalLimit | _: GlobalLimit | _: Offset | _: Tail | _: EvalLLM |
        _: SubqueryAlias => of(plan.children.head) match {
      case Sorted(order) if !order.forall(_.references.subsetOf(plan.outputSet)) =>
        Fixed("the rows have the order of a column that is gone")
      case other => other
    }
    case _: Aggregate | _: Window | _: Distinct => None
    // Such as explode or mapInPandas: rows that come from one row have an order among themselves.
    case unary: UnaryNode => of(unary.child) match {
      case _: Sorted => Fixed(s"${unary.nodeName} keeps an order that no sort could make again")
      case other => other
    }
    case _ => None
  }
}
