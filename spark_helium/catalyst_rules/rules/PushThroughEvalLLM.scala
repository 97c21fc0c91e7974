package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.{LeftAnti, LeftSemi}
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.expressions.Predicates
import org.apache.spark.sql.helium.plans.{EvalLLM, NumberPartitions, SharedCalls}

/**
 * Operators that keep fewer rows, and do not read an answer, run below the calls.
 *
 * {{{
 *   Filter (id > 3 AND llm#1 = 'yes')           Filter (llm#1 = 'yes')
 *   +- EvalLLM [llm#1 = llm('..', x)]      =>   +- EvalLLM [llm#1 = llm('..', x)]
 *      +- Relation [id, x]                         +- Filter (id > 3)
 *                                                     +- Relation [id, x]
 * }}}
 *
 * Likewise limits, samples without replacement, semi and anti joins, sorts and windows. A sort is
 * not fewer rows, but it opens the way for the limit above it, and Spark runs the input of a global
 * sort twice; a window opens the way for a filter on it, such as the first row of each group. `EvalLLM` keeps the number and the order of rows, so each of these sees the same rows
 * below it as above. IN and EXISTS become semi and anti joins there. A limit stays above where calls
 * below would stream into it through a filter. A filter by a group's key also goes below the numbers that
 * RewriteAIAggregates gives rows for their order. A Project between the operator and the node is stepped over.
 *
 * Declines when the operator is not deterministic, and when a call of the node is not: a call with
 * a temperature is not moved across a limit, nor made for other rows than the text says.
 */
object PushThroughEvalLLM extends HeliumRule("pushThroughEvalLLM") {

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = plan.transformUp {
    case f @ Filter(condition, node: EvalLLM) if movable(node) => pushFilter(f, condition, node)
    case f @ Filter(_, p @ Project(list, _)) if !list.forall(_.deterministic) && RewriteAIAggregates.onlyOrder(list) =>
      pushBelow(f, p)
    case f @ Filter(_, n: NumberPartitions) => pushBelow(f, n)
    case s @ Sort(order, _, Calls(node, inlined, rebuilt), _) if below(node, order.map(inlined)) =>
      val sorted = order.map(o => inlined(o).asInstanceOf[SortOrder])
      rebuilt(node.copy(child = s.copy(order = sorted, child = node.child)))
    case s @ Sample(_, _, false, _, Calls(node, _, rebuilt), _) =>
      rebuilt(node.copy(child = s.copy(child = node.child)))
    case w @ Window(_, _, _, Calls(node, inlined, rebuilt), _)
        if below(node, w.expressions.map(inlined)) =>
      val moved = w.copy(
        windowExpressions = w.windowExpressions.map(inlined(_).asInstanceOf[NamedExpression]),
        partitionSpec = w.partitionSpec.map(inlined),
        orderSpec = w.orderSpec.map(inlined(_).asInstanceOf[SortOrder]),
        child = node.child)
      rebuilt(node.copy(child = moved)) match {
        case Project(list, calls) => Project(list ++ w.windowExpressions.map(_.toAttribute), calls)
        case calls => Project(w.output, calls)
      }
    case j @ Join(Calls(node, inlined, rebuilt), right, LeftSemi | LeftAnti, condition, _)
        if below(node, condition.map(inlined).toSeq, right.outputSet) =>
      rebuilt(node.copy(child = j.copy(left = node.child, condition = condition.map(inlined))))
    case limit @ (_: LocalLimit | _: GlobalLimit) if topCalls(limit).isDefined => topCalls(limit).get
    case limit @ (_: LocalLimit | _: GlobalLimit | _: Offset) =>
      limit.children.head match {
        case Calls(node, _, rebuilt) if passesCalls(node.child, direct = true) =>
          rebuilt(node.copy(child = limit.withNewChildren(Seq(node.child))))
        case _ => limit
      }
  }

  /**
   * The first rows by an answer, with the calls that neither order nor filters read above the limit.
   */
  private def topCalls(limit: LogicalPlan): Option[LogicalPlan] = limit.children.head match {
    case p @ Project(list, sort: Sort) if list.forall(_.deterministic) =>
      topCalls(limit.withNewChildren(Seq(sort))).map(below => p.copy(child = below))
    case sort @ Sort(order, true, child, _) if order.forall(_.deterministic) =>
      for {
        below <- CallsBelow(child)
        if movable(below.node)
        read = (order.map(below.substitute(_)) ++ below.filters).flatMap(_.references)
        (kept, free) = below.split(AttributeSet(read))
        if kept.nonEmpty && free.nonEmpty
        node = below.node
        // The rows go up as they are, and their columns are made above the calls that are left.
        rows = Predicates.conjunction(below.filters)
          .foldLeft[LogicalPlan](node.withCalls(kept))((plan, c) => Filter(c, plan))
        sorted = sort.copy(
          order = order.map(o => below.substitute[Expression](o).asInstanceOf[SortOrder]), child = rows)
      } yield {
        did(s"${free.map(_._2).mkString(", ")} above the first rows")
        Project(below.columns, EvalLLM(free.map(_._1), free.map(_._2),
          limit.withNewChildren(Seq(sorted)), node.notes))
      }
    case _ => None
  }

  override protected def explain(plan: LogicalPlan): LogicalPlan = plan.transformUp {
    case op @ (_: Filter | _: Sort | _: Sample | _: LocalLimit | _: GlobalLimit | _: Offset) =>
      op.children.head match {
        case node: EvalLLM if !movable(node) && below(node, op.expressions) =>
          op.withNewChildren(Seq(declined(node,
            s"${op.nodeName} stays above a call with a temperature, which runs for every row")))
        case p @ Project(list, node: EvalLLM) if !movable(node) && list.forall(_.deterministic) =>
          op.withNewChildren(Seq(p.copy(child = declined(node,
            s"${op.nodeName} stays above a call with a temperature, which runs for every row"))))
        case _ => op
      }
  }

  /**
   * Whether a limit over the plan stops no call: it can go below all calls that stream into it. Spark
   * takes the rows of a limit at the top partition by partition, until there are enough; below
   * another node it would ask for rows of every partition.
   */
  private def passesCalls(plan: LogicalPlan, direct: Boolean): Boolean = plan match {
    case node: EvalLLM => direct && movable(node) && passesCalls(node.child, direct)
    case Project(list, child) if list.forall(_.deterministic) => passesCalls(child, direct)
    case Sort(_, true, _, _) | _: Aggregate | _: RepartitionOperation | _: SharedCalls => true
    case other => other.children.forall(passesCalls(_, direct = false))
  }

  private def movable(node: EvalLLM): Boolean = node.calls.forall(_.deterministic)

  /** Whether the expressions can be computed on the node's input. */
  private def below(
      node: EvalLLM,
      expressions: Seq[Expression],
      others: AttributeSet = AttributeSet.empty): Boolean = expressions.forall { e =>
    e.deterministic && e.references.subsetOf(node.child.outputSet ++ others)
  }

  /**
   * A node, or a Project over one: with what an expression above is in terms of the node, and how to
   * put a changed node in its place.
   */
  private object Calls {
    def unapply(
        plan: LogicalPlan): Option[(EvalLLM, Expression => Expression, EvalLLM => LogicalPlan)] = {
      plan match {
        case node: EvalLLM if movable(node) => Some((node, identity, identity))
        case p @ Project(list, node: EvalLLM) if movable(node) && list.forall(_.deterministic) =>
          val aliases = AttributeMap(list.collect { case a: Alias => a.toAttribute -> a.child })
          Some((node, _.transform { case a: Attribute => aliases.getOrElse(a, a) },
            n => p.copy(child = n)))
        case _ => None
      }
    }
  }

  /** A filter below what numbers rows for their order: those that are left keep their order and their partitions. */
  private def pushBelow(filter: Filter, numbering: UnaryNode): LogicalPlan = {
    val (leading, rest) = Predicates.conjuncts(filter.condition).span(_.deterministic)
    val (free, kept) = leading.partition(_.references.subsetOf(numbering.child.outputSet))
    Predicates.conjunction(free).fold[LogicalPlan](filter) { condition =>
      val pushed = numbering.withNewChildren(Seq(Filter(condition, numbering.child)))
      Predicates.conjunction(kept ++ rest).fold(pushed)(Filter(_, pushed))
    }
  }

  private def pushFilter(filter: Filter, condition: Expression, node: EvalLLM): LogicalPlan = {
    // What follows a non-deterministic conjunct must not run before it.
    val (leading, rest) = Predicates.conjuncts(condition).span(_.deterministic)
    val (cheap, reading) = leading.partition(c => below(node, Seq(c)))
    // A condition that cannot become a guard drops rows before the calls that it does not read.
    val (kept, free) = CallsBelow.split(node, AttributeSet(reading.flatMap(_.references)))
    if (cheap.isEmpty && rest.isEmpty && kept.nonEmpty && free.nonEmpty &&
        reading.exists(!Predicates.isMovable(_))) {
      val below = Filter(condition, node.withCalls(kept))
      Project(filter.output, EvalLLM(free.map(_._1), free.map(_._2), below, node.notes))
    } else if (cheap.isEmpty) {
      filter
    } else {
      val pushed = node.copy(child = Filter(cheap.reduce(And), node.child))
      (reading ++ rest).reduceOption(And).fold[LogicalPlan](pushed)(Filter(_, pushed))
    }
  }
}
