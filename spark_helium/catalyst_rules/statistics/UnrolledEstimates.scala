package org.apache.spark.sql.helium.statistics

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.aggregate.CollectList
import org.apache.spark.sql.catalyst.plans.logical.{Aggregate, LogicalPlan}
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.functions.Tournaments

/**
 * The calls of the engine that one call over an array stands for, on one row.
 *
 * @param calls how many
 * @param promptTokens of one of them
 * @param prefixTokens of one of them that all share
 */
case class UnrolledEstimate(calls: Double, promptTokens: Double, prefixTokens: Double)

/** Estimates for [[Unrolled]] calls: texts by their number and length, divided by the budget. */
class UnrolledEstimates(plans: PlanEstimates) {

  def of(call: LLMCall, prompt: Unrolled, plan: LogicalPlan): UnrolledEstimate = {
    val (texts, length) = textsOf(call.arguments(prompt.slot), plan)
    val each = Tokens.of(length) + UnrolledEstimates.separator
    val answer = plans.outputTokens(call)
    val prefix = Tokens.of(prompt.first.flatMap(_.content.parts).collect {
      case Text(value) => value.length.toDouble
    }.sum)
    val (calls, filled) = prompt.program match {
      case Fold => (texts.max(1), each + answer)
      case Best(take) => (Tournaments.mostComparisons(texts, take), 2 * each)
      case Combine(tokens) =>
        val budget = UnrolledEstimates.budgetOf(tokens)
        (merges(texts, each, budget), (texts * each).min(budget))
      case Reduce(tokens, _) =>
        val budget = UnrolledEstimates.budgetOf(tokens)
        val leaves = math.ceil(texts * each / budget).max(1)
        (leaves + merges(leaves, answer, budget), (texts * each).min(budget))
    }
    UnrolledEstimate(calls, prefix + filled + Tokens.chatOverhead, prefix)
  }

  /** Calls that put so many answers together. */
  private def merges(answers: Double, tokens: Double, budget: Double): Double =
    if (answers <= 1) 0
    else {
      val above = math.ceil(answers / (budget / tokens).max(2))
      above + merges(above, tokens, budget)
    }

  /** Number of texts of an array, and characters of one. */
  private def textsOf(array: Expression, plan: LogicalPlan): (Double, Double) = array match {
    case CreateArray(items, _) if items.nonEmpty =>
      (items.size.toDouble, items.map(plans.textLength(_, plan)).sum / items.size)
    case _ => array.references.iterator.flatMap(collected(_, plan)).nextOption()
      .getOrElse((PlanEstimates.Defaults.generated, PlanEstimates.Defaults.textLength))
  }

  /** The texts of a group, if an attribute is what an aggregate collected of it. */
  private def collected(a: Attribute, plan: LogicalPlan): Option[(Double, Double)] = plan.collect {
    case group: Aggregate => group.aggregateExpressions.collectFirst {
      case alias: Alias if alias.exprId == a.exprId => alias.collectFirst { case c: CollectList => c }
    }.flatten.map { c =>
      val text = c.child match {
        case s: CreateNamedStruct => s.valExprs.last
        case other => other
      }
      (plans.rows(group.child).value / plans.rows(group).value.max(1), plans.textLength(text, group.child))
    }
  }.flatten.headOption
}

object UnrolledEstimates {

  /** Tokens of texts in one prompt where the daemon chooses: half of a context of 4096. */
  val budget = 2048.0

  private def budgetOf(tokens: Int): Double = if (tokens > 0) tokens.toDouble else budget

  /** Tokens between two texts. */
  val separator = 4.0
}
