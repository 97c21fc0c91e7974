package org.apache.spark.sql.helium.expressions

import org.apache.spark.sql.catalyst.expressions.Expression

/**
 * Whether an expression is small enough to be written in place of the column that holds it. Columns
 * made of columns, again and again, grow without bound when they are opened.
 */
object ExpressionSize {

  private val most = 2000

  def isSmall(e: Expression): Boolean = left(e, most) > 0

  /** What is left of a budget of nodes; stops at zero, so that a huge tree costs no more. */
  private def left(e: Expression, budget: Int): Int =
    if (budget <= 0) 0 else e.children.foldLeft(budget - 1)((rest, child) => left(child, rest))
}
