package org.apache.spark.sql.helium.rules

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.expressions.LLMCall
import org.apache.spark.sql.helium.plans.EvalLLM

/**
 * Equal deterministic calls become one call, within an `EvalLLM` node and down a chain of nodes.
 *
 * {{{
 *   Project [llm#1, llm#2]                     Project [llm#1, llm#1 AS llm#2]
 *   +- EvalLLM [llm#1 = llm('..', x),     =>   +- EvalLLM [llm#1 = llm('..', x)]
 *               llm#2 = llm('..', x)]
 *
 *   EvalLLM [llm#2 = llm('..', x)]             Project [x, llm#1 AS llm#2]
 *   +- Project [x]                             +- Project [x, llm#1]
 *      +- Filter (llm#1 = 'yes')          =>      +- Filter (llm#1 = 'yes')
 *         +- EvalLLM [llm#1 = llm('..', x)]          +- EvalLLM [llm#1 = llm('..', x)]
 * }}}
 *
 * Calls are equal when function, template, options and arguments are; a call that reads a merged
 * call reads what it became, so that equal chains merge link by link. Between two nodes there may be
 * operators that pass columns through. Of two guards the merged call has either. Declines for calls
 * with a temperature and no seed (each is a draw of its own) and for a lower call with a guard, whose
 * answer is not there for every row.
 */
object MergeEqualCalls extends HeliumRule("mergeEqualCalls") {

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = plan.transformUp {
    case node: EvalLLM => mergeWithin(node) match {
      case p @ Project(_, merged: EvalLLM) =>
        val chained = mergeWithLower(merged)
        if (chained eq merged) p else p.copy(child = chained)
      case merged: EvalLLM => mergeWithLower(merged)
      case other => other
    }
  }

  override protected def explain(plan: LogicalPlan): LogicalPlan = plan.transformUp {
    case node: EvalLLM =>
      val draws = node.calls.filterNot(_.deterministic).map(_.canonicalized)
      if (draws.distinct.size == draws.size) node
      else declined(node, "equal calls with a temperature are draws of their own")
  }

  private def mergeWithin(node: EvalLLM): LogicalPlan = {
    val kept = mutable.ArrayBuffer.empty[(LLMCall, Attribute)]
    val became = mutable.Map.empty[ExprId, Attribute]
    val equal = mutable.Map.empty[Expression, Seq[Int]].withDefaultValue(Nil)
    node.calls.zip(node.answers).foreach { case (call, answer) =>
      val resolved = replaced(call, became)
      val form = resolved.copy(guard = None).canonicalized
      val twin = if (!resolved.deterministic) None else equal(form).find { i =>
        eitherGuard(kept(i)._1, resolved).forall(_.references.subsetOf(
          node.child.outputSet ++ AttributeSet(kept.take(i).map(_._2))))
      }
      twin match {
        case None =>
          equal(form) = equal(form) :+ kept.size
          kept += resolved -> answer
        case Some(i) =>
          val (one, first) = kept(i)
          kept(i) = one.copy(multiplicity = one.multiplicity + resolved.multiplicity,
            guard = eitherGuard(one, resolved)) -> first
          became(answer.exprId) = first
      }
    }
    rebuilt(node, kept.toSeq, became.toMap, node.child)
  }

  /** The rows of either call; where a guard is not true nobody looks, so that more rows do not harm. */
  private def eitherGuard(one: LLMCall, other: LLMCall): Option[Expression] =
    for (a <- one.guard; b <- other.guard) yield if (a.semanticEquals(b)) a else Or(a, b)

  /** Answers that a node further down already has are read from there. */
  private def mergeWithLower(node: EvalLLM): LogicalPlan = lowerNode(node.child) match {
    case None => node
    case Some(lower) =>
      val known = lower.calls.zip(lower.answers).filter { case (call, _) => call.guard.isEmpty }
      val became = mutable.Map.empty[ExprId, Attribute]
      val kept = node.calls.zip(node.answers).flatMap { case (call, answer) =>
        val resolved = replaced(call, became)
        val twin = known.collectFirst {
          case (other, attribute) if resolved.deterministic && resolved.guard.isEmpty &&
            other.semanticEquals(resolved) => attribute
        }
        twin.foreach(became(answer.exprId) = _)
        if (twin.isEmpty) Some(resolved -> answer) else None
      }
      rebuilt(node, kept, became.toMap, exposed(node.child, AttributeSet(became.values)))
  }

  private def replaced(call: LLMCall, became: collection.Map[ExprId, Attribute]): LLMCall =
    if (became.isEmpty) call
    else call.mapChildren(_.transform {
      case a: Attribute => became.getOrElse(a.exprId, a)
    }).asInstanceOf[LLMCall]

  private def rebuilt(
      node: EvalLLM,
      kept: Seq[(LLMCall, Attribute)],
      became: Map[ExprId, Attribute],
      child: LogicalPlan): LogicalPlan = {
    if (became.isEmpty) {
      node
    } else {
      val output = node.output.map { a =>
        became.get(a.exprId).fold[NamedExpression](a)(one => Alias(one, a.name)(exprId = a.exprId))
      }
      val (calls, answers) = kept.unzip
      did(s"${became.size} of ${EvalLLM.count(node.calls.size)} equal to another")
      Project(output,
        if (kept.isEmpty) child
        else node.copy(calls = calls, answers = answers, child = child))
    }
  }

  /** The nearest node below, through operators that pass every row's columns on. */
  private def lowerNode(plan: LogicalPlan): Option[EvalLLM] = plan match {
    case node: EvalLLM => Some(node)
    case _: Project | _: Filter | _: Sort | _: GlobalLimit | _: LocalLimit | _: Sample =>
      lowerNode(plan.children.head)
    case _ => None
  }

  /** The plan down to that node with the given answers in every Project's output. */
  private def exposed(plan: LogicalPlan, answers: AttributeSet): LogicalPlan = plan match {
    case node: EvalLLM => node
    case Project(list, child) =>
      val missing = answers.filterNot(a => list.exists(_.exprId == a.exprId)).toSeq
      Project(list ++ missing, exposed(child, answers))
    case other => other.withNewChildren(Seq(exposed(other.children.head, answers)))
  }
}
