package org.apache.spark.sql.helium.rules

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions.SubqueryExpression
import org.apache.spark.sql.catalyst.plans.logical.{LogicalPlan, Subquery}
import org.apache.spark.sql.helium.HeliumRule
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.statistics.PlanEstimates

/**
 * The fields of `fields => struct(...)`, whose order the user left open, are written in the order in
 * which rows share the longest beginnings.
 *
 * {{{
 *   EvalLLM [llm('..\nbody: {0}\nproduct: {1}', body, product)]     (1000 bodies, 10 products)
 * =>
 *   EvalLLM [llm('..\nproduct: {0}\nbody: {1}', product, body)]
 * }}}
 *
 * With rows visited in the order of their prompts, a field behind the fields P is shared by all rows
 * but one for each combination of P and itself. The order that shares most characters, the sum over
 * the fields of length x (rows - combinations), is found exactly, over the subsets of the fields; a
 * combination of columns is taken to have the product of their values, at most the rows. Among
 * equals the order as written wins. It is the prefix hit count of Liu et al., "Optimizing LLM Queries
 * in Relational Data Analytics Workloads" (arXiv 2403.05821), with one order for all rows.
 *
 * A prompt that stands in several places of a query gets one order, that of the first place with
 * statistics, so that equal calls stay equal; in subqueries, which Spark plans by themselves, the
 * order is that of the text.
 *
 * Another order is another prompt, so that answers may differ with the rule off: the one rule for
 * which that holds, and only for calls that ask for it with `fields`. Declines without statistics of
 * every field, and for more than [[OrderFields.most]] fields. Runs before the other rules by cost, as
 * they look at prompts in their order.
 */
object OrderFields extends HeliumRule("orderFields") {

  /** The most fields whose orders are looked through: there are 2 to this power of subsets. */
  val most = 12

  override protected def rewrite(plan: LogicalPlan): LogicalPlan =
    if (!asks(plan)) {
      plan
    } else if (isPlannedApart(plan)) {
      plan.transformUp {
        case node: EvalLLM if node.calls.exists(fieldsOf(_).nonEmpty) =>
          declined(node, "a subquery is planned by itself, and could choose another order")
      }
    } else {
      // The same prompt gets the same order wherever it stands: equal calls must stay equal.
      val chosen = mutable.Map.empty[(PromptSpec, Fields), Fields]
      plan.foreach {
        case node: EvalLLM => choose(node).foreach { case (key, order) => chosen.getOrElseUpdate(key, order) }
        case _ =>
      }
      plan.transformUp {
        case node: EvalLLM if node.calls.exists(fieldsOf(_).nonEmpty) => ordered(node, chosen)
      }
    }

  private def asks(plan: LogicalPlan): Boolean = plan.exists {
    case node: EvalLLM => node.calls.exists(fieldsOf(_).nonEmpty)
    case _ => false
  }

  /** Whether the plan is a subquery, or has one that asks with fields, too. */
  private def isPlannedApart(plan: LogicalPlan): Boolean = plan.isInstanceOf[Subquery] ||
    plan.exists(_.expressions.exists(_.exists {
      case subquery: SubqueryExpression => asks(subquery.plan)
      case _ => false
    }))

  private def fieldsOf(call: LLMCall): Seq[Fields] = call.prompt match {
    case Messages(messages) => messages.flatMap(_.content.parts).collect {
      case f: Fields if f.items.size > 1 => f
    }
    case _ => Nil
  }

  private def choose(node: EvalLLM): Seq[((PromptSpec, Fields), Fields)] = {
    val plans = new PlanEstimates
    val rows = plans.rows(node.child)
    for {
      call <- node.calls
      fields <- fieldsOf(call)
      order <- best(call, fields, node, plans, rows.value)
    } yield (call.prompt, fields) -> order
  }

  private def ordered(node: EvalLLM, chosen: collection.Map[(PromptSpec, Fields), Fields]): EvalLLM = {
    val calls = node.calls.map { call =>
      fieldsOf(call).foldLeft(call) { (c, fields) =>
        chosen.get((call.prompt, fields)).fold(c)(replaced(c, fields, _))
      }
    }
    if (calls != node.calls) {
      did(calls.diff(node.calls).flatMap(fieldsOf).map(_.items.map(_._1).mkString(", "))
        .mkString("order ", "; ", ""))
      node.copy(calls = calls)
    } else {
      reason(node, new PlanEstimates).fold(node)(declined(node, _))
    }
  }

  private def values(call: LLMCall, fields: Fields, node: EvalLLM, plans: PlanEstimates) =
    fields.items.map { case (_, slot) => plans.distinct(Seq(call.arguments(slot)), node.child) }

  private def reason(node: EvalLLM, plans: PlanEstimates): Option[String] = {
    val groups = node.calls.flatMap(c => fieldsOf(c).map(c -> _))
    groups.collectFirst {
      case (_, fields) if fields.items.size > most => s"${fields.items.size} fields are too many"
      case (call, fields) if !values(call, fields, node, plans).forall(_.measured) =>
        val unknown = fields.items.zip(values(call, fields, node, plans)).filterNot(_._2.measured)
        s"no statistics of ${unknown.map(_._1._1).mkString(", ")}"
    }
  }

  /** The fields in the best order; None where nothing is known. */
  private def best(call: LLMCall, fields: Fields, node: EvalLLM, plans: PlanEstimates,
      rows: Double): Option[Fields] = {
    val distinct = values(call, fields, node, plans)
    val n = fields.items.size
    if (n > most || !distinct.forall(_.measured)) {
      None
    } else {
      val length = fields.items.map { case (name, slot) =>
        name.length + 3 + plans.textLength(call.arguments(slot), node.child)
      }
      def combinations(set: Int): Double =
        (0 until n).filter(i => (set >> i & 1) == 1).map(distinct(_).value).product.min(rows)
      // By subset: the characters shared when its fields come first, and the field that comes last.
      val shared = new Array[Double](1 << n)
      val last = new Array[Int](1 << n)
      (1 until 1 << n).foreach { set =>
        shared(set) = Double.NegativeInfinity
        val open = rows - combinations(set)
        // From the last field on, so that among equals the one written last stays last.
        (n - 1 to 0 by -1).filter(i => (set >> i & 1) == 1).foreach { i =>
          val score = shared(set ^ (1 << i)) + length(i) * open
          if (score > shared(set)) {
            shared(set) = score
            last(set) = i
          }
        }
      }
      val order = Iterator.iterate((1 << n) - 1)(set => set ^ (1 << last(set)))
        .takeWhile(_ != 0).map(last(_)).toSeq.reverse
      Some(Fields(order.map(fields.items)))
    }
  }

  private def replaced(call: LLMCall, before: Fields, after: Fields): LLMCall = call.prompt match {
    case Messages(messages) =>
      LLMCall.normalized(call.copy(prompt = Messages(messages.map(m =>
        m.copy(content = PromptTemplate(m.content.parts.map {
          case `before` => after
          case part => part
        }))))))
    case _ => call
  }
}
