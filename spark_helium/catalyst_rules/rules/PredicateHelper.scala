package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions.{And, Expression}

/** Small questions about predicates that several rules ask. */
private[rules] object PredicateHelper {

  def conjuncts(condition: Expression): Seq[Expression] = condition match {
    case And(left, right) => conjuncts(left) ++ conjuncts(right)
    case other => Seq(other)
  }
}
