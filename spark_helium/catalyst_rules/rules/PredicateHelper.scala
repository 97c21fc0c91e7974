package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._

/** Small questions about predicates and other expressions that several rules ask. */
private[rules] object PredicateHelper {

  def conjuncts(condition: Expression): Seq[Expression] = condition match {
    case And(left, right) => conjuncts(left) ++ conjuncts(right)
    case other => Seq(other)
  }

  def conjunction(predicates: Seq[Expression]): Option[Expression] = predicates.reduceOption(And)

  /**
   * Whether an expression may be computed at another place of the plan: it gives the same there, and
   * is not about to become an operator of its own.
   */
  def isMovable(e: Expression): Boolean = e.deterministic && !e.exists {
    case _: SubqueryExpression | _: PythonUDF | _: UserDefinedExpression => true
    case _ => false
  }
}
