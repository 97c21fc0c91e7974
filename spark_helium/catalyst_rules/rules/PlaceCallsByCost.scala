package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.expressions.{LLMCall, Predicates}
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.statistics.{CallEstimates, PlanEstimates}

/**
 * Calls run above a join that keeps few of their rows, and below an operator that repeats them.
 *
 * {{{
 *   Join Inner (id = key)                           Project [id, a#1, key]
 *   :- EvalLLM [a#1 = llm('{0}?', x)]               +- EvalLLM [a#1 = llm('{0}?', x)]
 *   :  +- L [id, x]   (1000 rows)              =>      +- Join Inner (id = key)
 *   +- R [key]        (100 rows)                          :- L [id, x]
 *                                                         +- R [key]
 *
 *   EvalLLM [a#1 = llm('{0}?', x)]                  Join LeftOuter (id = key)
 *   +- Join LeftOuter (id = key)               =>   :- EvalLLM [a#1 = llm('{0}?', x)]
 *      :- L [id, x]   (1000 rows)                   :  +- L [id, x]
 *      +- R [key]     (50,000 rows)                 +- R [key]
 * }}}
 *
 * ''Above'' inner, semi and anti joins: the rows of the side that find no partner make no call. The
 * cost is the distinct prompts times their tokens, and a little for each row (see
 * [[CallEstimates]]). Without statistics half of the prompts are taken to find a partner.
 *
 * ''Below'' only where no row below is without a row above, so that the number of calls rises on no
 * input: the preserved side of an outer join; one side of an inner join, reduced by a semi join
 * with the other side; a generator such as explode, where the calls get as guard that there is
 * something to generate from. And only where the rows are known to become at least
 * [[PlaceCallsByCost.expansion]] times as many.
 *
 * Declines for calls with a temperature, which are made for each row that the text says; for a call
 * that the join condition reads; for the null-supplying side of an outer join, where a call above
 * could give what is NULL below. Runs once, after Spark has moved filters and pruned columns.
 */
object PlaceCallsByCost extends HeliumRule("placeCallsByCost") {

  /** From how many rows per row of a join's side its calls run below the join. */
  val expansion = 2.0

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = {
    val lifted = plan.transformUp {
      // What a stream's join keeps as its state must not depend on estimates of one batch.
      case join: Join if join.isStreaming => join
      case join @ Join(_, _, _: InnerLike, _, _) =>
        lift(join, left = true, further = lift(_, left = false, further = identity))
      case join @ Join(_, _, LeftSemi | LeftAnti, _, _) => lift(join, left = true, further = identity)
      case join @ Join(_, _, LeftOuter | RightOuter | FullOuter, _, _) => explainOuter(join)
    }
    val limited = StreamingLimit.nodesBelow(lifted)
    lifted.transformUp {
      case node @ EvalLLM(_, _, OverJoin(join, rebuild), _, _)
          if !node.isStreaming && !limited.contains(node) => lower(node, join, rebuild)
      case node @ EvalLLM(_, _, g: Generate, _, _) => lowerGenerate(node, g)
    }
  }

  // --- above a join

  /** The join with the calls of one side above it; `further` is what happens to the join in any case. */
  private def lift(join: Join, left: Boolean, further: Join => LogicalPlan): LogicalPlan = {
    val (side, other) = if (left) (join.left, join.right) else (join.right, join.left)
    CallsBelow(side).fold(further(join)) { below =>
      val node = below.node
      val condition = join.condition.map(below.substitute(_))
      val (kept, free) = CallsBelow.split(node,
        AttributeSet(condition.toSeq.flatMap(_.references)).filter(node.answers.contains))

      def decline(reason: String): LogicalPlan = {
        val noted = replaced(side, declined(node, reason))
        further(if (left) join.copy(left = noted) else join.copy(right = noted))
      }

      if (!node.calls.forall(_.deterministic)) {
        decline("a call with a temperature stays below the join")
      } else if (free.isEmpty) {
        decline(s"the join condition reads ${kept.map(_._2).mkString(", ")}")
      } else if (!join.condition.forall(Predicates.isMovable)) {
        decline("the join condition is not deterministic, or holds a subquery or a user's function")
      } else {
        val base = node.withCalls(kept)
        val (above, within) = below.filters.partition(_.references.exists(a =>
          free.exists(_._2.exprId == a.exprId)))
        val input = Predicates.conjunction(within).fold(base)(Filter(_, base))
        val moved =
          if (left) join.copy(left = input, condition = condition)
          else join.copy(right = input, condition = condition)
        val plans = new PlanEstimates
        val share = shareOf(moved, left, plans)
        val costs = new CallEstimates(plans)
        val prompts = free.map { case (call, _) =>
          costs.distinctInputs(call, node).atMost(plans.rows(node.child)).value *
            costs.tokens(call, node)
        }.sum
        val costBelow = prompts + plans.rows(node.child).value * CallEstimates.perRow
        val costAbove = prompts * share.value + plans.rows(moved).value * CallEstimates.perRow
        if (input.outputSet.exists(other.outputSet.contains)) {
          decline("both sides of the join read the same columns")
        } else if (costAbove >= costBelow) {
          decline(f"the join keeps ${share.value * 100}%.0f%% of the rows, and has " +
            f"${plans.rows(moved).value}%,.0f where the calls below see " +
            f"${plans.rows(node.child).value}%,.0f")
        } else {
          did(f"${free.map(_._2).mkString(", ")} above the ${join.joinType.sql} join, which is " +
            f"expected to keep ${share.value * 100}%.0f%% of ${plans.rows(input).value}%,.0f rows")
          val calls = EvalLLM(free.map(_._1), free.map(_._2), further(moved), node.notes)
          val filtered = Predicates.conjunction(above).fold[LogicalPlan](calls)(Filter(_, calls))
          val columns = below.columns.map(c => c.exprId -> c).toMap
          Project(join.output.map(a => columns.getOrElse(a.exprId, a)), filtered)
        }
      }
    }
  }

  private def shareOf(join: Join, left: Boolean, plans: PlanEstimates) = {
    val share = plans.joinedShare(join, left)
    if (join.joinType == LeftAnti) share.copy(value = 1 - share.value) else share
  }

  /** The side with another node in place of the one that is seen through projections and filters. */
  private def replaced(side: LogicalPlan, node: EvalLLM): LogicalPlan = side match {
    case _: EvalLLM => node
    case other => other.withNewChildren(Seq(replaced(other.children.head, node)))
  }

  private def explainOuter(join: Join): LogicalPlan = {
    def explained(side: LogicalPlan, nullable: Boolean): LogicalPlan = CallsBelow(side) match {
      case Some(below) if nullable => replaced(side, declined(below.node,
        s"above the ${join.joinType.sql} join the answers of rows without a partner could differ"))
      case _ => side
    }
    val left = explained(join.left, nullable = join.joinType != LeftOuter)
    val right = explained(join.right, nullable = join.joinType != RightOuter)
    if ((left eq join.left) && (right eq join.right)) join else join.copy(left = left, right = right)
  }

  // --- below a join or a generator

  /** A join, or columns of one. */
  private object OverJoin {
    def unapply(plan: LogicalPlan): Option[(Join, Join => LogicalPlan)] = plan match {
      case join: Join => Some((join, identity))
      case p @ Project(list, join: Join) if list.forall(_.isInstanceOf[Attribute]) =>
        Some((join, j => p.copy(child = j)))
      case _ => None
    }
  }

  private def lower(
      node: EvalLLM, join: Join, rebuild: Join => LogicalPlan): LogicalPlan = {
    val plans = new PlanEstimates
    val all = plans.rows(join)

    def expands(side: LogicalPlan): Boolean = {
      val rows = plans.rows(side)
      all.measured && rows.measured && all.value >= expansion * rows.value
    }

    def go(side: LogicalPlan, reduced: LogicalPlan => Option[LogicalPlan],
        into: LogicalPlan => Join): Option[LogicalPlan] =
      if (!expands(side)) None
      else lowered(node, side.outputSet).flatMap { case (calls, rest) =>
        reduced(side).map { input =>
          did(f"${calls.map(_._2).mkString(", ")} below the ${join.joinType.sql} join: " +
            f"${plans.rows(side).value}%,.0f rows become ${all.value}%,.0f")
          val joined = into(EvalLLM(calls.map(_._1), calls.map(_._2), input, node.notes))
          val passed = rebuild(joined) match {
            case p: Project => p.copy(projectList = p.projectList ++ calls.map(_._2))
            case other => other
          }
          val above = if (rest.isEmpty) passed else node.copy(
            calls = rest.map(_._1), answers = rest.map(_._2), child = passed)
          Project(node.output, above)
        }
      }

    val fromLeft = join.joinType match {
      case LeftOuter => go(join.left, Some(_), side => join.copy(left = side))
      case _: InnerLike => go(join.left, semi(_, join.right, join.condition),
        side => join.copy(left = side))
      case _ => None
    }
    fromLeft.orElse(join.joinType match {
      case RightOuter => go(join.right, Some(_), side => join.copy(right = side))
      case _: InnerLike => go(join.right, semi(_, join.left, join.condition),
        side => join.copy(right = side))
      case _ => None
    }).getOrElse(node)
  }

  /** Calls that read one side only, with the answers that they read; and the others. */
  private def lowered(node: EvalLLM, side: AttributeSet)
      : Option[(Seq[(LLMCall, Attribute)], Seq[(LLMCall, Attribute)])] = {
    val (calls, rest, _) = node.calls.zip(node.answers).foldLeft(
      (Vector.empty[(LLMCall, Attribute)], Vector.empty[(LLMCall, Attribute)], side)) {
      case ((down, up, known), (call, answer)) =>
        if (call.deterministic && call.references.nonEmpty && call.references.subsetOf(known)) {
          (down :+ (call -> answer), up, known + answer)
        } else {
          (down, up :+ (call -> answer), known)
        }
    }
    if (calls.isEmpty) None else Some((calls, rest))
  }

  /** The rows of a side that have a partner; None where the other side cannot be computed twice. */
  private def semi(
      side: LogicalPlan, other: LogicalPlan, condition: Option[Expression]): Option[LogicalPlan] =
    if (!FreshCopy.isStable(other) || other.exists(_.isInstanceOf[EvalLLM]) ||
        !condition.forall(Predicates.isMovable)) {
      None
    } else {
      val (copy, fresh) = FreshCopy(other)
      val renamed = condition.map(_.transform { case a: Attribute => fresh.getOrElse(a, a) })
      Some(Join(side, copy, LeftSemi, renamed, JoinHint.NONE))
    }

  private def lowerGenerate(node: EvalLLM, generate: Generate): LogicalPlan = {
    val something = generate.generator match {
      case _ if generate.outer => Some(None)
      case e: ExplodeBase if Predicates.isMovable(e.child) =>
        Some(Some(GreaterThan(Size(e.child, legacySizeOfNull = false), Literal(0))))
      case _ => None
    }
    val side = AttributeSet(generate.output.filter(generate.child.outputSet.contains))
    something.flatMap(guard => lowered(node, side).map { case (calls, rest) =>
      did(s"${calls.map(_._2).mkString(", ")} below ${generate.generator.prettyName}")
      val guarded = calls.map { case (call, answer) =>
        call.copy(guard = (guard ++ call.guard).reduceOption(And(_, _))) -> answer
      }
      val below = generate.copy(
        child = EvalLLM(guarded.map(_._1), guarded.map(_._2), generate.child, node.notes))
      val above = if (rest.isEmpty) below else node.copy(
        calls = rest.map(_._1), answers = rest.map(_._2), child = below)
      Project(node.output, above)
    }).getOrElse(node)
  }
}
