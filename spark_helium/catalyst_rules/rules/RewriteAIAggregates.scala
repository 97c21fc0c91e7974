package org.apache.spark.sql.helium.rules

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.aggregate._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.helium.expressions.AIAgg

/**
 * An aggregate of a language model becomes a call over the group's texts, which an ordinary aggregate
 * collects in the order of the rows.
 *
 * {{{
 *   Aggregate [k] [k, ai_agg(upper(x), '..') FILTER (WHERE c)]
 *   +- Relation [k, x, c]
 * =>
 *   Aggregate [k] [k, ai_agg(sort_array(collect_list(struct(order#1, text#2))
 *                              FILTER (WHERE text#2 IS NOT NULL)).text, '..')]
 *   +- Project [k, x, c, monotonically_increasing_id() AS order#1, IF(c, upper(x), NULL) AS text#2]
 *      +- Relation [k, x, c]
 * }}}
 *
 * The order is that of partitions, and of rows within a partition, so that the exchange in between does
 * not change it. Spark collects before that exchange, partition by partition. DISTINCT keeps the first
 * of equal texts. Several aggregates over the same texts share what is collected. A call among the texts
 * runs for the rows that FILTER lets through.
 *
 * Runs before [[ExtractLLMCalls]], which takes the call out of the Aggregate, as any call over an
 * aggregate's result, and calls among the texts to below it.
 */
object RewriteAIAggregates extends Rule[LogicalPlan] {

  override def apply(plan: LogicalPlan): LogicalPlan = plan.transformUp {
    case a: Aggregate if a.aggregateExpressions.exists(AIAgg.isIn) => rewrite(a)
  }

  private def rewrite(a: Aggregate): LogicalPlan = {
    val order = Alias(MonotonicallyIncreasingID(), "order")()
    val texts = mutable.ArrayBuffer.empty[Alias]

    /** The text as a column, which is computed once for each row: it may be a call. */
    def column(f: AggregateExpression, content: Expression): Attribute =
      f.filter.fold(content)(c => If(c, content, Literal(null, content.dataType))) match {
        case attribute: Attribute => attribute
        case text =>
          texts.find(t => t.child.deterministic && t.child.semanticEquals(text)).getOrElse {
            val alias = Alias(text, "text")()
            texts += alias
            alias
          }.toAttribute
      }

    def collected(f: AggregateExpression, content: Expression): Expression = {
      val text = column(f, content)
      val entry = CreateNamedStruct(Seq(
        Literal("order"), order.toAttribute, Literal("text"), text))
      val all = AggregateExpression(
        CollectList(entry), f.mode, isDistinct = false, filter = Some(IsNotNull(text)))
      val inOrder = GetArrayStructFields(SortArray(all, Literal.TrueLiteral),
        entry.dataType("text"), ordinal = 1, numFields = 2, containsNull = text.nullable)
      if (f.isDistinct) ArrayDistinct(inOrder) else inOrder
    }

    val list = a.aggregateExpressions.map(_.transform {
      case f @ AggregateExpression(AIAgg(content, call), _, _, _, _) =>
        call.over(Seq(collected(f, content)))
    }.asInstanceOf[NamedExpression])
    val below = Project((a.child.output :+ order) ++ texts, a.child)
    a.copy(aggregateExpressions = list, child = below)
  }
}
