package org.apache.spark.sql.helium.rules

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.optimizer.{CollapseProject, CombineFilters}
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.expressions.{CannotFail, LLMCall, Predicates}
import org.apache.spark.sql.helium.plans.{EvalLLM, Glue}

/**
 * Two nodes with a projection or a filter between them become one call graph, so that the daemon
 * starts a row's second call as soon as its first is done.
 *
 * {{{
 *   EvalLLM [b#2 = llm('Shorten {0}', g#3)]
 *   +- Project [x, concat('<', a#1, '>') AS g#3]
 *      +- Filter (a#1 = 'yes')
 *         +- EvalLLM [a#1 = llm('{0}?', x)]
 * =>
 *   Project [x, concat('<', a#1, '>') AS g#3, b#2]
 *   +- Filter (a#1 = 'yes')
 *      +- EvalLLM [a#1 = llm('{0}?', x),
 *                  b#2 = llm('Shorten {0}', concat('<', a#1, '>')) when a#1 = 'yes']
 * }}}
 *
 * String glue around an answer (see [[Glue]]) folds into the second call's prompt. A filter becomes
 * the second call's guard while it stays above, so that the same rows come out.
 *
 * Declines, call by call, for what the daemon cannot compute: other functions around an answer, a
 * condition on more than texts, expressions that are not deterministic, Python functions, subqueries.
 * Runs before Spark's operator rules without filters, which may still move below the first node, and
 * after them with filters.
 */
object FuseCallGraphs extends FuseCallGraphs(acrossFilters = true)

/** The part that runs early: see [[FuseCallGraphs]]. */
object FuseAdjacentCallGraphs extends FuseCallGraphs(acrossFilters = false)

abstract class FuseCallGraphs(acrossFilters: Boolean)
  extends HeliumRule("fuseCallGraphs") with AliasHelper {

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = plan.transformUp {
    case upper: EvalLLM => CallsBelow(upper.child) match {
      case Some(below) if acrossFilters || below.filters.isEmpty => fuse(upper, below)
      case Some(_) => upper
      case None => explained(upper, blocker(upper.child).toSeq)
    }
    // Two filters meet where a node between them is gone.
    case f @ Filter(_, _: Filter) if acrossFilters && CallsBelow(f).isDefined => CombineFilters(f)
  }

  private def fuse(upper: EvalLLM, below: CallsBelow): LogicalPlan = {
    val lower = below.node
    val known = mutable.Map.empty[ExprId, LLMCall]
    lower.answers.map(_.exprId).zip(lower.calls).foreach(known += _)
    val moved = mutable.ArrayBuffer.empty[(LLMCall, Attribute)]
    val left = mutable.ArrayBuffer.empty[(LLMCall, Attribute)]
    val reasons = mutable.LinkedHashSet.empty[String]
    upper.calls.zip(upper.answers).foreach { case (call, answer) =>
      if (call.references.exists(a => left.exists(_._2.exprId == a.exprId))) {
        left += call -> answer
      } else {
        val substituted = below.substitute(call)
        val guards = below.filters ++ substituted.guard.toSeq.flatMap(Predicates.conjuncts)
        val candidate = substituted.copy(guard = Predicates.conjunction(
          Predicates.distinct(guards)))
        obstacle(candidate, known, below.filters.nonEmpty) match {
          case None =>
            moved += candidate -> answer
            known += answer.exprId -> candidate
          case Some(reason) =>
            reasons += reason
            left += call -> answer
        }
      }
    }
    if (moved.isEmpty) {
      explained(upper, reasons.toSeq)
    } else {
      val node = lower.copy(
        calls = lower.calls ++ moved.map(_._1), answers = lower.answers ++ moved.map(_._2),
        notes = (lower.notes ++ upper.notes).distinct)
      did(s"${moved.map(_._2).mkString(", ")} joined the call graph of ${lower.answers.mkString(", ")}")
      val passed = tidied(exposing(upper.child, node, moved.map(_._2).toSeq))
      val rest = if (left.isEmpty) passed
        else explained(EvalLLM(left.map(_._1).toSeq, left.map(_._2).toSeq, passed), reasons.toSeq)
      if (rest.output.map(_.exprId) == upper.output.map(_.exprId)) rest
      else Project(upper.output, rest)
    }
  }

  /**
   * Why a call cannot stand in one call graph with the given calls; None when it can.
   *
   * @param calls those that it may read, by the ids of their answers
   * @param filtered whether it comes from above a filter
   */
  private def obstacle(
      call: LLMCall, calls: collection.Map[ExprId, LLMCall], filtered: Boolean): Option[String] = {
    def reads(e: Expression): Boolean = e.references.exists(a => calls.contains(a.exprId))
    val expressions = call.arguments ++ call.guard
    expressions.find(e => reads(e) && !Predicates.isMovable(e))
      .orElse(expressions.find(!_.deterministic))
      .map(e => s"${shown(e)} is not deterministic, a subquery or a user's function")
      .orElse(call.arguments.find(e => filtered && !CannotFail(e))
        .map(e => s"${shown(e)} could fail for a row that the filter drops"))
      .orElse(call.arguments.find(!Glue.isText(_, calls))
        .map(e => s"${shown(e)} between two calls is more than string glue"))
      .orElse(call.guard.toSeq.flatMap(Predicates.conjuncts)
        .find(!Glue.isCondition(_, calls))
        .map(e => s"the condition ${shown(e)} is more than the daemon evaluates"))
  }

  // Said at the end only, when Spark has simplified what stands between.
  private def explained(node: EvalLLM, reasons: Seq[String]): EvalLLM =
    if (acrossFilters) reasons.foldLeft(node)(declined(_, _)) else node

  /** What keeps a node from the next one below: an operator that Spark has to run between them. */
  private def blocker(plan: LogicalPlan): Option[String] = {
    def within(plan: LogicalPlan): Option[String] = plan match {
      case _: EvalLLM => None
      case Project(list, _) if !list.forall(Predicates.isMovable) => Some("a projection")
      case Filter(condition, _) if !Predicates.isMovable(condition) => Some("a filter")
      case Project(_, child) => within(child)
      case Filter(_, child) => within(child)
      case unary: UnaryNode => Some(unary.nodeName)
      case _ => None
    }
    if (plan.exists(_.isInstanceOf[EvalLLM])) {
      within(plan).map(b => s"$b stands between it and the calls below")
    } else {
      None
    }
  }

  /** The plan down to the node with the given answers in every Project's output. */
  private def exposing(plan: LogicalPlan, node: EvalLLM, answers: Seq[Attribute]): LogicalPlan =
    plan match {
      case _: EvalLLM => node
      case Project(list, child) => Project(list ++ answers, exposing(child, node, answers))
      case other => other.withNewChildren(Seq(exposing(other.children.head, node, answers)))
    }

  /**
   * The projections and filters on the way to the node as one projection over one filter, where that
   * computes nothing twice. A long chain of calls would else carry one for each link, and every rule,
   * Spark's and ours, look through all of them at each link.
   */
  private def tidied(plan: LogicalPlan): LogicalPlan = plan match {
    case Project(list, f @ Filter(_, _: Project)) =>
      tidied(f) match {
        case below: Project => tidied(Project(list, below))
        case below => Project(list, below)
      }
    case Project(upper, below @ Project(lower, _)) if mayInline(lower, upper) =>
      below.copy(projectList = CollapseProject.buildCleanedProjectList(upper, lower))
    case Filter(condition, p @ Project(list, child)) if mayInline(list, Seq(condition), again = true) =>
      val aliases = getAliasMap(p)
      p.copy(child = tidied(Filter(replaceAlias(condition, aliases), child)))
    case Filter(upper, Filter(lower, child)) =>
      val conjuncts = Predicates.conjuncts(lower) ++ Predicates.conjuncts(upper)
      Filter(Predicates.conjunction(Predicates.distinct(conjuncts)).get, child)
    case other => other
  }

  /**
   * Whether columns may be computed by each of their readers: none that costs something has two.
   *
   * @param again whether the columns stay, so that one reader is one too many
   */
  private def mayInline(
      columns: Seq[NamedExpression], readers: Seq[Expression], again: Boolean = false): Boolean = {
    val times = readers.flatMap(_.collect { case a: Attribute => a.exprId })
      .groupMapReduce(identity)(_ => 1)(_ + _)
    columns.forall {
      case alias @ Alias(child, _) => CollapseProject.isCheap(child) ||
        times.getOrElse(alias.exprId, 0) <= (if (again) 0 else 1)
      case _ => true
    }
  }

  private def shown(e: Expression): String = {
    val text = e.toString
    if (text.length <= 60) text else text.take(57) + "..."
  }
}
