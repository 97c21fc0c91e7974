package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.helium.expressions.LLMCall

/**
 * Makes a call over both sides of an outer, semi, anti or existence join computable.
 *
 * Such a condition cannot move into a Filter above the join. Instead the distinct pairs of values
 * for which it is true are computed first, and the join becomes an equality join with them:
 *
 * {{{
 *   LeftOuter join ON cheap AND llm(l.x, r.y) = 'yes'
 *   :- L
 *   +- R
 * =>
 *   LeftOuter join ON cheap AND l.x <=> m.x
 *   :- L
 *   +- Inner join ON r.y <=> m.y
 *      :- R
 *      +- m: Distinct
 *         +- Project [x, y]
 *            +- Filter (llm(x, y) = 'yes')
 *               +- Distinct
 *                  +- Project [x, y]
 *                     +- Inner join ON cheap
 *                        :- copy of L
 *                        +- copy of R
 * }}}
 *
 * `m` holds each pair of values once, so that a pair of rows matches at most one row of `m` and no
 * row is doubled. A right outer join is the mirror image. A full outer join is the left outer join
 * and, below it, the rows of R that match nothing. Only deterministic calls: one with a temperature
 * may answer two equal pairs differently. Must run before [[ExtractLLMCalls]], which then treats
 * the inner join's Filter as any other.
 */
object RewriteTwoSidedJoinCalls extends Rule[LogicalPlan] {

  override def apply(plan: LogicalPlan): LogicalPlan = plan.transformDown {
    case join @ Join(_, _, joinType, Some(condition), _) if isTwoSided(join, condition) =>
      joinType match {
        case _: InnerLike => join
        case _ if !condition.deterministic => join
        case RightOuter =>
          val mirrored = rewriteRight(
            join.copy(left = join.right, right = join.left, joinType = LeftOuter), condition)
          Project(join.output, mirrored)
        case FullOuter => rewriteFullOuter(join, condition)
        case _ => rewriteRight(join, condition)
      }
  }

  private def isTwoSided(join: Join, condition: Expression): Boolean = condition.exists {
    case call: LLMCall =>
      !call.references.subsetOf(join.left.outputSet) &&
        !call.references.subsetOf(join.right.outputSet)
    case _ => false
  }

  /** The join with R replaced by R and the matching pairs; the output stays as it was. */
  private def rewriteRight(join: Join, condition: Expression): LogicalPlan = {
    val (withCalls, cheap) = PredicateHelper.conjuncts(condition).partition(LLMCall.isIn)
    val (pairs, leftValues, rightValues) = matchingPairs(join, withCalls, cheap)
    val right = Join(join.right, pairs, Inner, conjunction(rightValues), JoinHint.NONE)
    val rewritten = join.copy(
      right = right, condition = conjunction(leftValues ++ cheap))
    val wanted = join.output
    if (rewritten.output.map(_.exprId) == wanted.map(_.exprId)) {
      rewritten
    } else {
      Project(wanted, rewritten)
    }
  }

  private def rewriteFullOuter(join: Join, condition: Expression): LogicalPlan = {
    val leftOuter = rewriteRight(join.copy(joinType = LeftOuter), condition)
    val (rightCopy, fresh) = FreshCopy(join.right)
    val (leftCopy, freshLeft) = FreshCopy(join.left)
    def renamed(e: Expression): Expression = e.transform {
      case a: Attribute => fresh.get(a).orElse(freshLeft.get(a)).getOrElse(a)
    }
    val unmatched = rewriteRight(
      Join(rightCopy, leftCopy, LeftAnti, Some(renamed(condition)), JoinHint.NONE),
      renamed(condition))
    val padded = Project(
      join.left.output.map(a => Alias(Literal(null, a.dataType), a.name)()) ++
        join.right.output.map(a => fresh.getOrElse(a, a)),
      unmatched)
    // A union takes its attributes from its first child, whose NULLs may be from either side.
    val first = Project(join.output.map(a => Alias(a, a.name)(exprId = a.exprId)), leftOuter)
    Union(Seq(first, padded))
  }

  /**
   * The distinct values of the condition's columns for which the condition holds, and the
   * equalities that tie them to the rows of the left and of the right side.
   */
  private def matchingPairs(
      join: Join,
      withCalls: Seq[Expression],
      cheap: Seq[Expression]): (LogicalPlan, Seq[Expression], Seq[Expression]) = {
    val read = AttributeSet.fromAttributeSets(withCalls.map(_.references)).toSeq
    val leftColumns = read.filter(join.left.outputSet.contains)
    val rightColumns = read.filter(join.right.outputSet.contains)
    val (leftCopy, freshLeft) = FreshCopy(join.left)
    val (rightCopy, freshRight) = FreshCopy(join.right)
    def fresh(a: Attribute): Attribute =
      freshLeft.get(a).orElse(freshRight.get(a)).getOrElse(a)
    def renamed(e: Expression): Expression = e.transform { case a: Attribute => fresh(a) }

    val candidates = Join(
      leftCopy, rightCopy, if (cheap.isEmpty) Cross else Inner,
      conjunction(cheap.map(renamed)), JoinHint.NONE)
    val columns = (leftColumns ++ rightColumns).map(fresh)
    // Aggregates, because the batch that replaces Distinct is over when this rule runs.
    val distinct = Aggregate(columns, columns, candidates)
    val pairs = Filter(conjunction(withCalls.map(renamed)).get, distinct)
    def tied(columns: Seq[Attribute]): Seq[Expression] =
      columns.map(a => EqualNullSafe(a, fresh(a)))
    (pairs, tied(leftColumns), tied(rightColumns))
  }

  private def conjunction(predicates: Seq[Expression]): Option[Expression] =
    predicates.reduceOption(And)
}
