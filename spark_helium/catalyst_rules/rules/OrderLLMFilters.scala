package org.apache.spark.sql.helium.rules

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.expressions.{CannotFail, LLMCall, Predicates}
import org.apache.spark.sql.helium.plans.{EvalLLM, LLMFilters}
import org.apache.spark.sql.helium.statistics.{CallEstimates, PlanEstimates}

/**
 * The conjuncts of a filter over calls run one after the other, the one that costs least per dropped
 * row first; a call runs only for rows that the conjuncts before it have let through.
 *
 * {{{
 *   Filter (long#1 = 'yes' AND short#2 = 'yes')
 *   +- EvalLLM [long#1 = llm('..long..', x), short#2 = llm('..', x), sum#3 = llm('Sum up {0}', x)]
 * =>
 *   Filter (long#1 = 'yes' AND short#2 = 'yes')
 *   +- EvalLLM [short#2 = llm('..', x),
 *               long#1 = llm('..long..', x) when short#2 = 'yes',
 *               sum#3 = llm('Sum up {0}', x) when short#2 = 'yes' AND long#1 = 'yes']
 * }}}
 *
 * The rank of a conjunct is the tokens of the calls that it needs and that no conjunct before it
 * needs, by the share of rows that it is expected to drop. The filter stays where it is, and decides
 * alone which rows come out; where a guard is not true it drops the row. What follows a conjunct
 * that is not deterministic is left alone, and calls that a conjunct reads which may fail run for
 * every row.
 *
 * Declines for a node with a call that is a draw (a temperature and no seed), which is made for each
 * row that the text says. Must run after [[FuseCallGraphs]], whose guards it takes up.
 */
object OrderLLMFilters extends HeliumRule("orderLLMFilters") {

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = plan.transformUp {
    case f @ Filter(condition, node: EvalLLM) =>
      val usable = Predicates.distinct(LLMFilters.free(condition))
      val reading = usable.filter(_.references.exists(node.answers.contains))
      if (reading.isEmpty) f
      else if (!node.calls.forall(_.deterministic)) {
        withNode(f, declined(node, "a call with a temperature runs for every row"))
      } else {
        // What may fail must see the answers that it sees now, and no NULL in their place.
        val fixed = Predicates.conjuncts(condition).filterNot(CannotFail(_))
        ordered(f, node, usable, AttributeSet(fixed.flatMap(_.references)))
      }
  }

  private def ordered(
      filter: Filter,
      node: EvalLLM,
      conjuncts: Seq[Expression],
      fixed: AttributeSet): LogicalPlan = {
    val plans = new PlanEstimates
    val costs = new CallEstimates(plans)
    // A guard that repeats a conjunct came from an order that was chosen before.
    val passed = new Predicates.Met(conjuncts)
    val bare = node.copy(calls = node.calls.map(c => c.copy(guard = c.guard.flatMap(g =>
      Predicates.conjunction(Predicates.conjuncts(g).filterNot(passed.implies))))))
    val tokens = bare.answers.map(_.exprId).zip(bare.calls.map(costs.tokens(_, node))).toMap

    val needs = conjuncts.map(c =>
      c -> CallsBelow.split(bare, c.references)._1.map(_._2.exprId)).toMap
    val dropped = conjuncts.map(c => c -> (1 - plans.selectivity(c, node).value).max(0.001)).toMap
    val left = mutable.ArrayBuffer.from(conjuncts)
    val before = mutable.ArrayBuffer.empty[Expression]
    val guardOf = mutable.LinkedHashMap.empty[ExprId, Seq[Expression]]
    CallsBelow.split(bare, fixed)._1.foreach { case (_, answer) => guardOf(answer.exprId) = Nil }
    while (left.nonEmpty) {
      val next = left.minBy { c =>
        needs(c).filterNot(guardOf.contains).map(tokens).sum / dropped(c)
      }
      needs(next).filterNot(guardOf.contains).foreach(guardOf(_) = before.toSeq)
      before += next
      left -= next
    }
    bare.answers.map(_.exprId).filterNot(guardOf.contains).foreach(guardOf(_) = before.toSeq)
    val pairs = bare.answers.map(_.exprId).zip(bare.calls.zip(bare.answers)).toMap
    val result = guardOf.toSeq.map { case (id, conditions) =>
      val (call, answer) = pairs(id)
      val own = call.guard.toSeq.flatMap(Predicates.conjuncts)
      val (inOwn, together) = (new Predicates.Met(own), new Predicates.Met(conditions))
      val added = conditions.filterNot(c => inOwn.contains(c) || together.impliesFromOthers(c))
      call.copy(guard = Predicates.conjunction(added ++ own)) -> answer
    }
    val sorted = topological(result)
    if (sorted == node.calls.zip(node.answers)) {
      filter
    } else {
      did(s"order ${before.filter(_.references.exists(node.answers.contains)).mkString(", then ")}")
      withNode(filter, node.copy(calls = sorted.map(_._1), answers = sorted.map(_._2)))
    }
  }

  /** Calls after those that they read, else in the given order. */
  private def topological(calls: Seq[(LLMCall, Attribute)]): Seq[(LLMCall, Attribute)] = {
    val done = mutable.LinkedHashMap.empty[ExprId, (LLMCall, Attribute)]
    val byId = calls.map(c => c._2.exprId -> c).toMap
    def add(pair: (LLMCall, Attribute)): Unit = if (!done.contains(pair._2.exprId)) {
      pair._1.references.foreach(a => byId.get(a.exprId).foreach(add))
      done(pair._2.exprId) = pair
    }
    calls.foreach(add)
    done.values.toSeq
  }

  private def withNode(filter: Filter, node: EvalLLM): LogicalPlan = {
    val changed = filter.copy(child = node)
    if (node eq filter.child) filter
    else if (changed.output.map(_.exprId) == filter.output.map(_.exprId)) changed
    else Project(filter.output, changed)
  }
}
