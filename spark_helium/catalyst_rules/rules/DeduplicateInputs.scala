package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.LeftOuter
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions.Predicates
import org.apache.spark.sql.helium.{HeliumConf, HeliumRule}
import org.apache.spark.sql.helium.plans.{CallGraph, EvalLLM}
import org.apache.spark.sql.helium.statistics.PlanEstimates
import org.apache.spark.sql.types._

/**
 * Where statistics show that few inputs repeat over many rows, the distinct inputs are computed once
 * per query and their answers joined to the rows.
 *
 * {{{
 *   EvalLLM [a#1 = llm('{0}?', x)]               Project [id, x, a#1]
 *   +- R [id, x] (1,000,000 rows, 50 of x)  =>   +- Join LeftOuter (x <=> x#2)
 *                                                   :- R [id, x]
 *                                                   +- EvalLLM [a#1 = llm('{0}?', x#2)]
 *                                                      +- Aggregate [x#2]
 *                                                         +- R [x#2]
 * }}}
 *
 * The daemon makes equal calls of a query once in any case. What is saved here is the way of each row
 * to the daemon and back, and, on several nodes, an input that two of them would compute.
 *
 * The inputs are what the call graph reads, as texts compared byte by byte, so that a row gets the
 * answer to its own prompt. A guard is an input like any other.
 *
 * Declines where no statistics tell how often inputs repeat; where they repeat less than
 * [[DeduplicateInputs.repeats]] times or there are less rows than
 * `spark.helium.optimizer.deduplicateInputs.minRows`, as reading the input twice then costs more than
 * it saves; and where the input is not the same twice, has an order, or has calls below.
 */
object DeduplicateInputs extends HeliumRule("deduplicateInputs") {

  /** How often an input repeats, in the mean, at the least. */
  val repeats = 4.0

  override protected def rewrite(plan: LogicalPlan): LogicalPlan = {
    val limited = StreamingLimit.nodesBelow(plan)
    plan.transformUp {
      case node: EvalLLM if !node.child.isInstanceOf[Aggregate] =>
        unfit(node).map(declined(node, _, routine = true))
          .orElse(obstacle(node, limited.contains(node)).map(declined(node, _)))
          .getOrElse(deduplicated(node))
    }
  }

  /** Why there is nothing to gain, as far as is known. */
  private def unfit(node: EvalLLM): Option[String] = {
    val inputs = inputsOf(node)
    val plans = new PlanEstimates
    val rows = plans.rows(node.child)
    val distinct = plans.distinct(inputs, node.child)
    val least = HeliumConf.int(conf, "spark.helium.optimizer.deduplicateInputs.minRows")
    if (inputs.isEmpty) Some("the calls read no column")
    else if (rows.measured && rows.value < least) Some(f"${rows.value}%,.0f rows are few")
    else if (!rows.measured || !distinct.measured) Some("no statistics tell how often inputs repeat")
    else if (rows.value < repeats * distinct.value) {
      Some(f"${distinct.value}%,.0f inputs in ${rows.value}%,.0f rows repeat little")
    } else {
      None
    }
  }

  private def obstacle(node: EvalLLM, limited: Boolean): Option[String] = {
    val inputs = inputsOf(node)
    if (!node.calls.forall(_.deterministic)) Some("a call with a temperature runs for every row")
    else if (node.child.exists(_.isInstanceOf[EvalLLM])) Some("calls below would run twice")
    else if (RowOrder.of(node) != RowOrder.None) Some("a join would lose the order of the rows")
    else if (limited) Some("a limit above takes what it needs, and a join would ask for all")
    else FreshCopy.notRepeatable(node.child).map(reason => s"the input $reason")
      .orElse(Option.when(!FreshCopy.isStable(node.child))("ties decide on the rows of the input"))
      .orElse(inputs.find(!Predicates.isMovable(_))
        .map(e => s"$e is not deterministic, a subquery or a user's function"))
      .orElse(inputs.find(e => !isComparable(e.dataType))
        .map(e => s"$e of type ${e.dataType.sql} cannot be compared byte by byte"))
  }

  private def deduplicated(node: EvalLLM): LogicalPlan = {
    val inputs = inputsOf(node)
    val keys = inputs.map(e => Alias(e, "input")())
    val (copy, fresh) = FreshCopy(node.child)
    val copied = keys.map(k => Alias(k.child.transform {
      case a: Attribute => fresh.getOrElse(a, a)
    }, "input")())
    val values = copied.map(_.toAttribute)
    val distinct = Aggregate(values, values, Project(copied, copy))
    val at = inputs.zip(values)
    val calls = node.calls.map(c => replaced(c, at).asInstanceOf[c.type])
    val once = EvalLLM(calls, node.answers, distinct, node.notes)
    did(f"${node.answers.mkString(", ")} for each distinct input")
    val condition = keys.zip(values).map { case (k, v) => EqualNullSafe(k.toAttribute, v): Expression }
      .reduce(And(_, _))
    Project(node.output,
      Join(Project(node.child.output ++ keys, node.child), once, LeftOuter, Some(condition),
        JoinHint.NONE))
  }

  /** The expression with each input replaced by the column that holds it. */
  private def replaced(e: Expression, at: Seq[(Expression, Attribute)]): Expression =
    at.collectFirst { case (input, column) if input.semanticEquals(e) => column }
      .getOrElse(e.mapChildren(replaced(_, at)))

  private def inputsOf(node: EvalLLM): Seq[Expression] =
    CallGraph.inputsOf(node.calls, node.answers)

  private def isComparable(dataType: DataType): Boolean = dataType match {
    case StringType | BooleanType => true
    case ArrayType(StructType(fields), _) => fields.forall(_.dataType == StringType)
    case _ => false
  }
}
