package org.apache.spark.sql.helium.expressions

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions._

/** Small questions about predicates and other expressions that several rules ask. */
object Predicates {

  def conjuncts(condition: Expression): Seq[Expression] = {
    val found = mutable.ArrayBuffer.empty[Expression]
    def add(e: Expression): Unit = e match {
      case And(left, right) =>
        add(left)
        add(right)
      case other => found += other
    }
    add(condition)
    found.toSeq
  }

  /**
   * The predicates in their order as one. The tree is balanced: Spark's rules take a conjunction apart
   * at each of its levels, and a guard may be as long as the query has filters.
   */
  def conjunction(predicates: Seq[Expression]): Option[Expression] = {
    val all = predicates.toIndexedSeq
    def joined(from: Int, until: Int): Expression =
      if (until - from == 1) all(from)
      else {
        val middle = (from + until + 1) / 2
        And(joined(from, middle), joined(middle, until))
      }
    Option.when(all.nonEmpty)(joined(0, all.size))
  }

  /** The predicates without those that repeat an earlier one. */
  def distinct(predicates: Seq[Expression]): Seq[Expression] = {
    val seen = mutable.Set.empty[Expression]
    predicates.filter(e => !e.deterministic || seen.add(e.canonicalized))
  }

  /**
   * Whether an expression may be computed at another place of the plan: it gives the same there, and
   * is not about to become an operator of its own.
   */
  def isMovable(e: Expression): Boolean = e.deterministic && !e.exists {
    case _: SubqueryExpression | _: PythonUDF | _: UserDefinedExpression => true
    case _ => false
  }

  /** Conditions that are true for every row at hand, and what follows from them. */
  class Met(conditions: Seq[Expression]) {

    private val met = conditions.filter(_.deterministic)
    private val known = met.map(_.canonicalized).toSet
    private val compared = met.collect { case EqualTo(left, right) => Seq(left, right) }.flatten
      .map(_.canonicalized).toSet

    /** Whether a condition is true for every row, too. */
    def implies(condition: Expression): Boolean = contains(condition) || impliesFromOthers(condition)

    /** The same, where the condition itself is one of those at hand, and there once. */
    def impliesFromOthers(condition: Expression): Boolean = condition match {
      case EqualNullSafe(c, Literal.TrueLiteral) => implies(c)
      case Not(EqualNullSafe(c, Literal.FalseLiteral)) => implies(c)
      case IsNotNull(e) => !e.nullable || compared(e.canonicalized)
      case _ => false
    }

    def contains(condition: Expression): Boolean =
      condition.deterministic && known(condition.canonicalized)
  }
}
