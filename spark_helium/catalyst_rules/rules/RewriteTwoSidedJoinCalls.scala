package org.apache.spark.sql.helium.rules

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.helium.expressions.{CannotFail, LLMCall, Predicates}
import org.apache.spark.sql.types._

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
 * and, below it, the rows of R that match nothing.
 *
 * The values are the arguments of the calls as binary strings, computed on their side first: what
 * SQL holds for equal ('a' and 'A' under a collation, 0.0 and -0.0) may be different prompts.
 *
 * Declines, as an analysis error, where computing a side twice could give other rows, or where the
 * values cannot be compared exactly; see [[declines]]. Must run before [[ExtractLLMCalls]], which
 * then treats the inner join's Filter as any other.
 */
object RewriteTwoSidedJoinCalls extends Rule[LogicalPlan] {

  override def apply(plan: LogicalPlan): LogicalPlan = plan.transformDown {
    case join: Join if declines(join).isEmpty && isTwoSided(join) =>
      val condition = join.condition.get
      join.joinType match {
        case RightOuter =>
          val mirrored = rewriteRight(
            join.copy(left = join.right, right = join.left, joinType = LeftOuter), condition)
          Project(join.output, mirrored)
        case FullOuter => rewriteFullOuter(join, condition)
        case _ => rewriteRight(join, condition)
      }
  }

  /** Whether a call of the join's condition reads both sides, and no Filter above can hold it. */
  private def isTwoSided(join: Join): Boolean = !join.joinType.isInstanceOf[InnerLike] &&
    join.condition.exists(_.exists {
      case call: LLMCall =>
        !call.references.subsetOf(join.left.outputSet) &&
          !call.references.subsetOf(join.right.outputSet)
      case _ => false
    })

  /** Why a join with a two-sided call cannot be computed; None when it can, or has no such call. */
  def declines(join: Join): Option[String] = {
    lazy val sides = Seq("left" -> join.left, "right" -> join.right)
    if (!isTwoSided(join)) {
      None
    } else if (!join.condition.get.deterministic) {
      Some("it reads both sides and is not deterministic")
    } else if (join.left.isStreaming || join.right.isStreaming) {
      Some("it reads both sides, and one of them is a stream")
    } else {
      sides.collectFirst {
        case (name, side) if !FreshCopy.isRepeatable(side) =>
          s"the $name side ${FreshCopy.notRepeatable(side).get}"
      }.orElse(incomparable(join).map(a =>
        s"it compares ${a.name} of type ${a.dataType.sql}, in which equal values may differ"))
    }
  }

  /** A column beside the calls' arguments that must be compared as it is, and cannot be. */
  private def incomparable(join: Join): Option[Attribute] = {
    val keys = new Keys(join)
    val (withCalls, _) = Predicates.conjuncts(join.condition.get).partition(LLMCall.isIn)
    AttributeSet.fromAttributeSets(withCalls.map(keys.replace(_).references)).toSeq
      .filterNot(keys.isKey).find(_.dataType.existsRecursively {
        case _: FloatType | _: DoubleType | _: MapType | _: VariantType => true
        case s: StringType => s != StringType
        case _ => false
      })
  }

  /** The join with R replaced by R and the matching pairs; the output stays as it was. */
  private def rewriteRight(join: Join, condition: Expression): LogicalPlan = {
    val keys = new Keys(join)
    val (withCalls, cheap) = Predicates.conjuncts(condition).partition(LLMCall.isIn)
    val keyed = withCalls.map(keys.replace)
    val sides = join.copy(left = keys.withLeft, right = keys.withRight)
    val (pairs, leftValues, rightValues) = matchingPairs(sides, keyed, cheap)
    val right = Join(sides.right, pairs, Inner, conjunction(rightValues), JoinHint.NONE)
    Project(join.output, sides.copy(right = right, condition = conjunction(leftValues ++ cheap)))
  }

  private def rewriteFullOuter(join: Join, condition: Expression): LogicalPlan = {
    val leftOuter = rewriteRight(join.copy(joinType = LeftOuter), condition)
    val (rightCopy, fresh) = FreshCopy(join.right)
    val (leftCopy, freshLeft) = FreshCopy(join.left)
    val renamed = condition.transform {
      case a: Attribute => fresh.get(a).orElse(freshLeft.get(a)).getOrElse(a)
    }
    val unmatched = rewriteRight(
      Join(rightCopy, leftCopy, LeftAnti, Some(renamed), JoinHint.NONE), renamed)
    val padded = Project(
      join.left.output.map(a => Alias(Literal(null, a.dataType), a.name)()) ++
        join.right.output.map(a => fresh.getOrElse(a, a)),
      unmatched)
    Union(Seq(leftOuter, padded))
  }

  /** One-sided arguments of the calls of a join's condition, as columns of their side. */
  private class Keys(join: Join) {

    private val left = mutable.ArrayBuffer.empty[Alias]
    private val right = mutable.ArrayBuffer.empty[Alias]

    def withLeft: LogicalPlan = extended(join.left, left.toSeq)

    def withRight: LogicalPlan = extended(join.right, right.toSeq)

    def isKey(a: Attribute): Boolean = (left ++ right).exists(_.exprId == a.exprId)

    /** The expression with such arguments replaced by their columns. */
    def replace(e: Expression): Expression = e match {
      case call: LLMCall => call.copy(arguments = call.arguments.map {
        case argument if LLMCall.isIn(argument) => replace(argument)
        // For some rows nobody may ask for it: what it reads is compared instead.
        case argument if !CannotFail(argument) => argument
        case argument if argument.references.subsetOf(join.left.outputSet) => key(left, argument)
        case argument if argument.references.subsetOf(join.right.outputSet) => key(right, argument)
        case argument => argument
      })
      case other => other.mapChildren(replace)
    }

    private def key(keys: mutable.ArrayBuffer[Alias], argument: Expression): Expression = {
      val text = argument.dataType match {
        case s: StringType if s != StringType => Cast(argument, StringType)
        case _ => argument
      }
      if (argument.foldable) {
        argument
      } else {
        keys.find(_.child.semanticEquals(text)).getOrElse {
          val alias = Alias(text, "argument")()
          keys += alias
          alias
        }.toAttribute
      }
    }

    private def extended(side: LogicalPlan, keys: Seq[Alias]): LogicalPlan =
      if (keys.isEmpty) side else Project(side.output ++ keys, side)
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
