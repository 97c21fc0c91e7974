package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.optimizer.ColumnPruning
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.plans.{EvalLLM, SharedCalls}

/**
 * The same node over the same rows in several places of a query runs once: both sides of a UNION or a
 * self-join, each reference to a CTE.
 *
 * {{{
 *   Union                                        Union
 *   :- Project [a#1]                             :- Project [a#1]
 *   :  +- EvalLLM [a#1 = llm('{0}?', x#2)]       :  +- SharedCalls
 *   :     +- R [x#2]                        =>   :     +- EvalLLM [a#1 = llm('{0}?', x#2)]
 *   +- Project [id#5, a#3]                       :        +- Project [id#7, x#2]
 *      +- EvalLLM [a#3 = llm('{0}?', x#4)]       :           +- R [id#7, x#2]
 *         +- R [id#5, x#4]                       +- Project [id#5, a#3]
 *                                                   +- SharedCalls (the same, reused)
 * }}}
 *
 * Spark prunes each copy's columns for what is above it, so that copies differ where their users do.
 * The copies are compared without such projections, and each gets the columns that any of them
 * needs. A shared node is planned as an exchange, which Spark reuses.
 *
 * Declines for calls or inputs that are not deterministic: each copy is a draw of its own; for
 * streams; and for an input with an order, which an exchange would lose.
 */
object ShareLLMSubplans extends HeliumRule("shareLLMSubplans") {

  /** @param read the columns of the node that its users may read */
  private case class Copy(node: EvalLLM, read: Seq[Attribute], bare: EvalLLM) {
    /** Positions of those columns in the output without pruning. */
    val positions: Set[Int] = {
      val at = bare.output.map(_.exprId).zipWithIndex.toMap
      read.flatMap(a => at.get(a.exprId)).toSet
    }
  }

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = {
    val limited = StreamingLimit.nodesBelow(plan)
    val copies = if (!conf.exchangeReuseEnabled) Nil else outermost(plan).map { case (n, read) =>
      Copy(n, read, EvalLLM(n.calls, n.answers, withoutPruning(n.child)))
    }
      .filter(c => c.node.outputSet.subsetOf(c.bare.outputSet))
    val groups = copies.groupBy(c => withGuards(c.bare, Nil).canonicalized).values
      .filter(_.size > 1).flatMap(alike).toSeq
    if (groups.isEmpty) {
      plan
    } else {
      val changed = new java.util.IdentityHashMap[EvalLLM, LogicalPlan]
      groups.foreach { group =>
        group.flatMap(c => obstacle(c.node, limited.contains(c.node))).headOption match {
          case Some(reason) => group.foreach(c => changed.put(c.node,
            declined(c.node, s"its ${group.size} copies stay apart, $reason")))
          case None =>
            val positions = group.flatMap(_.positions).toSet
            val once = group.map(c => c -> shared(c, positions))
            // What differs after all would be an exchange for nothing.
            if (once.map(_._2.canonicalized).distinct.size == 1) {
              did(s"${group.size} copies of ${group.head.node.answers.mkString(", ")} run once")
              once.foreach { case (c, subplan) => changed.put(c.node, Project(c.read, subplan)) }
            }
        }
      }
      if (changed.isEmpty) plan else plan.transformDown {
        case node: EvalLLM if changed.containsKey(node) => changed.get(node)
      }
    }
  }

  /**
   * Copies with one guard for each call: none where a copy has none, as its answers are there for every
   * row then. Copies with different guards for a call would run it for more rows together; they are
   * shared with those of the same guards only.
   */
  private def alike(group: Seq[Copy]): Seq[Seq[Copy]] = {
    val open = group.head.node.calls.indices.filter(i => group.exists(_.node.calls(i).guard.isEmpty))
    group.map(c => c.copy(bare = withGuards(c.bare, c.bare.calls.indices.diff(open))))
      .groupBy(_.bare.canonicalized).values.filter(_.size > 1).toSeq
  }

  /** The node with the guards of the calls at the given positions only. */
  private def withGuards(node: EvalLLM, kept: Seq[Int]): EvalLLM =
    node.copy(calls = node.calls.zipWithIndex.map { case (call, i) =>
      if (kept.contains(i)) call else call.copy(guard = None)
    })

  private def shared(copy: Copy, positions: Set[Int]): LogicalPlan = {
    val columns = copy.bare.output.zipWithIndex.collect { case (a, i) if positions(i) => a }
    SharedCalls(ColumnPruning(Project(columns, copy.bare.copy(notes = copy.node.notes))))
  }

  /** Nodes below no other node, as what is shared is shared as a whole, and their columns in use. */
  private def outermost(plan: LogicalPlan): Seq[(EvalLLM, Seq[Attribute])] = plan match {
    case _: SharedCalls => Nil
    case node: EvalLLM => Seq(node -> node.output)
    case Project(list, node: EvalLLM) => Seq(node -> node.output.filter(AttributeSet(list).contains))
    case Project(list, Filter(condition, node: EvalLLM)) =>
      Seq(node -> node.output.filter(AttributeSet(list :+ condition).contains))
    case other => other.children.flatMap(outermost)
  }

  /** The plan without projections of columns, where nothing above goes by the columns' number. */
  private def withoutPruning(plan: LogicalPlan): LogicalPlan = plan match {
    case Project(list, child) if list.forall(_.isInstanceOf[Attribute]) => withoutPruning(child)
    case _: Project | _: Filter | _: EvalLLM | _: Sort | _: LocalLimit | _: GlobalLimit =>
      plan.withNewChildren(plan.children.map(withoutPruning))
    case join: Join =>
      val (left, right) = (withoutPruning(join.left), withoutPruning(join.right))
      if (left.outputSet.exists(right.outputSet.contains)) join
      else join.copy(left = left, right = right)
    case other => other
  }

  private def obstacle(node: EvalLLM, limited: Boolean): Option[String] =
    if (!node.calls.forall(_.deterministic)) Some("each is a draw of its own")
    else FreshCopy.notRepeatable(node.child).map(reason => s"their input $reason")
      .orElse(Option.when(limited)("a limit above takes what it needs"))
      .orElse(Option.when(RowOrder.of(node) != RowOrder.None)("an exchange would lose their order"))
}
