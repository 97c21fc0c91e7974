package org.apache.spark.sql.helium.plans

import org.apache.spark.sql.catalyst.expressions.Expression
import org.apache.spark.sql.helium.expressions.{CannotFail, Predicates}

/**
 * Conditions of one filter right above a node that may be looked at in any order: the filter drops a
 * row for which one of them is not true, so that nobody reads its other answers.
 */
object LLMFilters {

  /**
   * The conjuncts of a filter's condition that are free to be ordered: what stands before the first
   * that is not deterministic, and cannot fail for a row that another one drops.
   */
  def free(condition: Expression): Seq[Expression] =
    Predicates.conjuncts(condition).takeWhile(_.deterministic)
      .filter(c => Predicates.isMovable(c) && CannotFail(c))

  /**
   * The conditions that the daemon may order by what it observes. None where one of the filter's
   * conjuncts is tied to its place, or is more than the daemon evaluates; none for one alone.
   */
  def forDaemon(condition: Expression, node: EvalLLM): Seq[Expression] = {
    val all = Predicates.conjuncts(condition)
    val calls = node.answers.map(_.exprId).zip(node.calls).toMap
    val reading = all.filter(_.references.exists(a => calls.contains(a.exprId)))
    val usable = all.size == free(condition).size && node.calls.forall(_.deterministic) &&
      reading.forall(Glue.isCondition(_, calls))
    if (usable && reading.size > 1) reading else Nil
  }
}
