package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.plans.{EvalLLM, Pace}

/**
 * Calls below a limit that could not be pushed below them ask few rows first, and more only if the limit
 * goes on reading.
 *
 * {{{
 *   LocalLimit 10                                LocalLimit 10
 *   +- Filter (a#1 = 'yes')              =>      +- Filter (a#1 = 'yes')
 *      +- EvalLLM [a#1 = llm('{0}?', x)]            +- EvalLLM [a#1 = llm('{0}?', x)], asks 20 rows first
 * }}}
 *
 * The limit is what each task has above the calls, a `LocalLimit`: a `GlobalLimit` or an offset without one reads an
 * exchange. Only through projections and filters do rows go one by one; a sort, an aggregate, a join or an
 * exchange reads on, whatever stands above it. The table is the same.
 *
 * Declines for a cascade, which needs windows of rows as a whole; for a stream; below other calls and
 * below Python functions, which read their rows ahead; and below subqueries. Runs last, as
 * rules before it build nodes anew.
 */
object PaceForLimit extends HeliumRule("paceForLimit") {

  /** What is read of a plan's rows. */
  private sealed trait Demand

  private case object All extends Demand

  /** @param dropping whether rows are dropped before the limit counts them */
  private case class Wanted(rows: Int, dropping: Boolean) extends Demand

  /** A limit is above, and yet all rows are read. */
  private case class Ahead(reason: String) extends Demand

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = walk(plan, All)

  private def walk(plan: LogicalPlan, demand: Demand): LogicalPlan = plan match {
    case node: EvalLLM => through(paced(node, demand), demand match {
      case _: Wanted => Ahead("the calls above read its rows ahead")
      case other => other
    })
    case LocalLimit(IntegerLiteral(rows), _) => demand match {
      case above: Wanted if above.rows < rows => through(plan, above)
      case _ => through(plan, Wanted(rows, dropping = false))
    }
    case _: Project | _: Filter => demand match {
      case wanted: Wanted => through(plan, readsAhead(plan).fold[Demand](
        wanted.copy(dropping = wanted.dropping || plan.isInstanceOf[Filter]))(Ahead))
      case other => through(plan, other)
    }
    case other => through(other, All)
  }

  private def through(plan: LogicalPlan, demand: Demand): LogicalPlan = plan.mapChildren(walk(_, demand))

  private def readsAhead(plan: LogicalPlan): Option[String] =
    plan.expressions.flatMap(_.find {
      case _: PythonUDF | _: SubqueryExpression => true
      case _ => false
    }).headOption.map {
      case _: PythonUDF => "a Python function above reads its rows ahead"
      case _ => "a subquery stands between it and the limit"
    }

  private def paced(node: EvalLLM, demand: Demand): EvalLLM = demand match {
    case Wanted(rows, dropping) =>
      val pace = Pace(rows, dropping)
      if (node.calls.exists(_.options.cascade.isDefined)) {
        declined(withPace(node, None), "a cascade needs whole windows of rows")
      } else if (node.isStreaming) {
        declined(withPace(node, None), "the input is a stream")
      } else if (node.maxRows.exists(_ <= pace.first)) {
        withPace(node, None)
      } else {
        did(s"${node.answers.mkString(", ")} $pace")
        withPace(node, Some(pace))
      }
    case Ahead(reason) => declined(withPace(node, None), reason)
    case All => withPace(node, None)
  }

  private def withPace(node: EvalLLM, pace: Option[Pace]): EvalLLM =
    if (node.pace == pace) node else node.copy(pace = pace)
}
