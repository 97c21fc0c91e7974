package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._

/** Small questions about predicates and other expressions that several rules ask. */
private[rules] object PredicateHelper {

  def conjuncts(condition: Expression): Seq[Expression] = condition match {
    case And(left, right) => conjuncts(left) ++ conjuncts(right)
    case other => Seq(other)
  }

  def conjunction(predicates: Seq[Expression]): Option[Expression] = predicates.reduceOption(And)

  /** The predicates without repeats. */
  def distinct(predicates: Seq[Expression]): Seq[Expression] =
    predicates.foldLeft(Seq.empty[Expression]) { (kept, e) =>
      if (kept.exists(_.semanticEquals(e))) kept else kept :+ e
    }

  /**
   * Whether an expression may be computed at another place of the plan: it gives the same there, and
   * is not about to become an operator of its own.
   */
  def isMovable(e: Expression): Boolean = e.deterministic && !e.exists {
    case _: SubqueryExpression | _: PythonUDF | _: UserDefinedExpression => true
    case _ => false
  }

  /** Whether a condition is true for every row for which all of the conditions in `met` are true. */
  def isMet(condition: Expression, met: Seq[Expression]): Boolean = condition match {
    case EqualNullSafe(c, Literal.TrueLiteral) => isMet(c, met)
    case Not(EqualNullSafe(c, Literal.FalseLiteral)) => isMet(c, met)
    case IsNotNull(e) if !e.nullable => true
    case IsNotNull(e) => met.exists {
      case EqualTo(left, right) => left.semanticEquals(e) || right.semanticEquals(e)
      case other => other.semanticEquals(condition)
    }
    case c => met.exists(_.semanticEquals(c))
  }
}
