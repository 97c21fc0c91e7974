package org.apache.spark.sql.helium.rules

import java.util.{LinkedHashMap => JLinkedHashMap, Map => JMap}

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions.{Expression, SubqueryExpression}
import org.apache.spark.sql.catalyst.plans.logical.{LogicalPlan, Subquery}
import org.apache.spark.sql.helium.{HeliumConf, HeliumRule}
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.plans.EvalLLM
import org.apache.spark.sql.helium.statistics.{FieldGroups, FieldSample, PlanEstimates}
import org.apache.spark.sql.helium.statistics.FieldSample.Missing

/**
 * The fields of `fields => struct(...)`, whose order the user left open, are written in the order in
 * which rows share the longest beginnings.
 *
 * {{{
 *   EvalLLM [llm('..{0}', fields(body, product))]     (1000 bodies, 10 products)
 * =>
 *   EvalLLM [llm('..{0}', fields(product, body))]
 * }}}
 *
 * Where a sample of the rows is cheap to have ([[FieldSample]]), the order comes from what its values
 * share ([[FieldGroups]]), and may depend on the values of a row; on nothing else, so that equal rows make
 * equal prompts. A sample is read at most once for the same record over the same input, as far as the last
 * [[OrderFields.mostRemembered]] of them are concerned, so that EXPLAIN and the query agree.
 *
 * Else statistics tell the one order for all rows: with rows visited in the order of their prompts,
 * a field behind the fields P is shared by all rows but one for each combination of P and itself. The
 * order that shares most characters, the sum over the fields of length x (rows - combinations), is found
 * exactly, over the subsets of at most [[OrderFields.most]] fields; a combination of columns is taken to have the
 * product of their values, at most the rows. Among equals the order as written wins. It is the prefix hit
 * count of Liu et al., "Optimizing LLM Queries in Relational Data Analytics Workloads" (arXiv 2403.05821), with one
 * order for all rows.
 *
 * A prompt that stands in several places of a query gets one order, that of the first place with a
 * sample, or else with statistics, so that equal calls stay equal; in subqueries, which Spark plans by themselves,
 * the order is that of the text.
 *
 * Another order is another prompt, so that answers may differ with the rule off: the one rule for
 * which that holds, and only for calls that ask for it with `fields`. Declines where there is neither a
 * sample nor statistics of every field. Runs before the other rules by cost, as they look at prompts in
 * their order.
 */
object OrderFields extends HeliumRule("orderFields") {

  /** The most fields whose orders are looked through by statistics: there are 2 to this power of subsets. */
  val most = 12

  /** How many orders by samples are kept. */
  val mostRemembered = 100

  /** An order, and what it is by, for the report. */
  private case class Choice(order: FieldOrder, why: String)

  /** The record of a prompt: the prompt itself, which of its arguments, and the names of the fields. */
  private type Key = (PromptSpec, Int, Seq[String])

  override protected def rewrite(plan: LogicalPlan): LogicalPlan =
    if (!asks(plan)) {
      plan
    } else if (isPlannedApart(plan)) {
      plan.transformUp {
        case node: EvalLLM if recordsOf(node).nonEmpty =>
          declined(node, "a subquery is planned by itself, and could choose another order")
      }
    } else {
      // The same prompt gets the same order wherever it stands: equal calls must stay equal.
      val places = plan.collect { case node: EvalLLM => node }
        .flatMap(node => recordsOf(node).map { case (key, record) => (key, record, node) })
      val chosen = mutable.Map.empty[Key, Choice]
      val reasons = mutable.Map.empty[Key, String]
      places.foreach { case (key, record, node) =>
        if (!chosen.contains(key)) {
          bySample(record, node) match {
            case Right(choice) => chosen(key) = choice
            case Left(missing) => reasons.getOrElseUpdate(key, missing.reason)
          }
        }
      }
      places.foreach { case (key, record, node) =>
        if (!chosen.contains(key)) byStatistics(record, node).foreach(chosen(key) = _)
      }
      plan.transformUp {
        case node: EvalLLM if recordsOf(node).nonEmpty => ordered(node, chosen, reasons)
      }
    }

  private def asks(plan: LogicalPlan): Boolean = plan.exists {
    case node: EvalLLM => recordsOf(node).nonEmpty
    case _ => false
  }

  /** Whether the plan is a subquery, or has one that asks with fields, too. */
  private def isPlannedApart(plan: LogicalPlan): Boolean = plan.isInstanceOf[Subquery] ||
    plan.exists(_.expressions.exists(_.exists {
      case subquery: SubqueryExpression => asks(subquery.plan)
      case _ => false
    }))

  /** Records of several fields that have no order yet. */
  private def recordsOf(node: EvalLLM): Seq[(Key, JsonRecord)] =
    node.calls.flatMap(call => recordsOf(call).map { case (i, record) => keyOf(call, i, record) -> record })

  private def recordsOf(call: LLMCall): Seq[(Int, JsonRecord)] = call.arguments.zipWithIndex.collect {
    case (record: JsonRecord, i) if record.names.size > 1 && isAsWritten(record) => i -> record
  }

  private def isAsWritten(record: JsonRecord): Boolean = record.order == FieldOrder.asWritten(record.names.size)

  private def keyOf(call: LLMCall, i: Int, record: JsonRecord): Key = (call.prompt, i, record.names)

  private def ordered(
      node: EvalLLM, chosen: collection.Map[Key, Choice], reasons: collection.Map[Key, String]): EvalLLM = {
    val choices = recordsOf(node).map { case (key, record) => (record, chosen.get(key), reasons.get(key)) }
    val calls = node.calls.map { call =>
      call.copy(arguments = call.arguments.zipWithIndex.map {
        case (record: JsonRecord, i) => chosen.get(keyOf(call, i, record)).filter(_ => isAsWritten(record))
          .fold(record)(c => record.copy(order = c.order))
        case (other, _) => other
      })
    }
    choices.collect { case (record, Some(choice), _) if choice.order != record.order =>
      did(s"order ${describe(record.names, choice.order)} (${choice.why})")
    }
    val result = if (calls == node.calls) node else node.copy(calls = calls)
    choices.collect {
      case (record, Some(choice), _) if choice.order == record.order =>
        s"the order as written is the best (${choice.why})" -> true
      case (record, None, sampled) =>
        (sampled.toSeq ++ withoutStatistics(record, node)).mkString("; ") -> false
    }.distinct.foldLeft(result) { case (n, (reason, routine)) => declined(n, reason, routine) }
  }

  private def describe(names: Seq[String], order: FieldOrder): String =
    order.usual.map(names).mkString(", ") +
      (if (order.size > 0) s", other ones for ${FieldOrder.count(order)}" else "")

  private def bySample(record: JsonRecord, node: EvalLLM): Either[Missing, Choice] =
    if (record.names.size > FieldGroups.mostFields) {
      Left(Missing(s"${record.names.size} fields are too many"))
    } else {
      val rows = HeliumConf.int(conf, "spark.helium.optimizer.orderFields.sampleRows")
      Remembered(record, node.child, rows) {
        FieldSample.of(record.values, node.child, rows).flatMap { sample =>
          val groups = new FieldGroups(sample.map(record.texts).toIndexedSeq, record.overheads)
          if (groups.rows < 2) {
            Left(Missing(s"${groups.rows} different rows in a sample of ${sample.size} share nothing"))
          }
          else Right(Choice(groups.best, share(groups, sample.size)))
        }
      }
    }

  private def share(groups: FieldGroups, rows: Int): String = {
    def percent(order: FieldOrder): String = f"${100.0 * groups.hits(order) / groups.characters.max(1)}%.0f %%"
    val written = FieldOrder.asWritten(groups.best.usual.size)
    f"of the characters of a sample of $rows%,d rows, ${percent(groups.best)} are in shared prefixes" +
      (if (groups.best == written) "" else s", ${percent(written)} as written")
  }

  private def distinctOf(record: JsonRecord, node: EvalLLM, plans: PlanEstimates) =
    record.values.map(v => plans.distinct(Seq(v), node.child))

  private def withoutStatistics(record: JsonRecord, node: EvalLLM): Option[String] =
    if (record.names.size > most) {
      Some(s"${record.names.size} fields are too many for statistics")
    } else {
      val unknown = record.names.zip(distinctOf(record, node, new PlanEstimates)).filterNot(_._2.measured)
      Option.when(unknown.nonEmpty)(s"no statistics of ${unknown.map(_._1).mkString(", ")}")
    }

  /** The best order for all rows; None where nothing is known. */
  private def byStatistics(record: JsonRecord, node: EvalLLM): Option[Choice] = {
    val plans = new PlanEstimates
    val n = record.names.size
    lazy val distinct = distinctOf(record, node, plans)
    if (n > most || !distinct.forall(_.measured)) {
      None
    } else {
      val rows = plans.rows(node.child).value
      val length = record.values.zip(record.overheads).map { case (v, own) => own + plans.jsonLength(v, node.child) }
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
      Some(Choice(FixedOrder(order), "by statistics"))
    }
  }

  /**
   * What was chosen for a record over an input. Plans stand for themselves by their hashes, so that
   * nothing keeps their data; two that share one would share an order, which is as good a text. That a job
   * failed is not remembered: it may succeed the next time.
   */
  private object Remembered {

    private case class Input(names: Seq[String], values: Seq[Int], plan: Int, bytes: BigInt, rows: Int)

    private val known = new JLinkedHashMap[Input, Either[Missing, Choice]](16, 0.75f, true) {
      override def removeEldestEntry(e: JMap.Entry[Input, Either[Missing, Choice]]): Boolean = size > mostRemembered
    }

    def apply(record: JsonRecord, plan: LogicalPlan, rows: Int)(
        find: => Either[Missing, Choice]): Either[Missing, Choice] =
      if (plan.isStreaming) {
        find // it says no, and a stream's size is nothing to ask for
      } else {
        val input = Input(record.names, record.values.map(v => hash(v, plan)), plan.semanticHash(),
          plan.collectLeaves().map(_.stats.sizeInBytes).sum, rows)
        val before = known.synchronized(known.get(input))
        if (before != null) before else {
          val found = find
          if (found.fold(_.lasts, _ => true)) known.synchronized(known.put(input, found))
          found
        }
      }

    private def hash(value: Expression, plan: LogicalPlan): Int =
      org.apache.spark.sql.catalyst.plans.QueryPlan.normalizeExpressions(value, plan.output).canonicalized.hashCode
  }
}
