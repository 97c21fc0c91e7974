package org.apache.spark.sql.helium.rules

import scala.collection.mutable

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.aggregate._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.catalyst.rules.Rule
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.plans.{EvalLLM, NumberPartitions, RuleNote}
import org.apache.spark.sql.types.MetadataBuilder

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
 * With `partial => true` the texts of a group are reduced within their partition first, before the exchange:
 *
 * {{{
 *   Aggregate [k] [k, ai_agg(sort_array(collect_list(struct(p#3, partial#4))).partial, '..')]    answers only
 *   +- Project [k, p#3, ai_agg(texts#5, '..') AS partial#4]
 *      +- Aggregate [k, p#3] [k, p#3, sort_array(collect_list(struct(order#1, text#2))).text AS texts#5]
 *         +- NumberPartitions p#3                                             no exchange above it
 *            +- Project [k, order#1, text#2]
 * }}}
 *
 * What other aggregates of the same node read travels in an array beside the texts, and becomes rows again
 * above the calls. DISTINCT looks for the first of equal texts over all partitions, which takes an exchange.
 *
 * Runs before [[ExtractLLMCalls]], which takes the call out of the Aggregate, as any call over an
 * aggregate's result, and calls among the texts to below it.
 */
object RewriteAIAggregates extends Rule[LogicalPlan] {

  /** Says of a number that it only gives rows their order. */
  private val orderMark = new MetadataBuilder().putBoolean("spark_helium.order", true).build()

  /**
   * Whether fewer rows may be numbered instead, as these keep their order among themselves: the columns are
   * deterministic but for a number that says nothing else.
   */
  private[rules] def onlyOrder(columns: Seq[NamedExpression]): Boolean =
    columns.forall(c => c.deterministic || c.metadata.contains("spark_helium.order"))

  override def apply(plan: LogicalPlan): LogicalPlan = plan.transformUp {
    case a: Aggregate if a.aggregateExpressions.exists(AIAgg.isIn) =>
      val texts = new Texts
      val list = a.aggregateExpressions.map(_.transform {
        case f @ AggregateExpression(AIAgg(content, call, false), _, _, _, _) =>
          call.over(Seq(texts.collected(texts.column(f, content), f.isDistinct)))
      }.asInstanceOf[NamedExpression])
      if (list.exists(AIAgg.isIn)) {
        inPartitions(a.copy(aggregateExpressions = list), texts)
      } else {
        a.copy(aggregateExpressions = list, child = Project(a.child.output ++ texts.columns, a.child))
      }
  }

  /** Says on the nodes of the finished plan where texts are reduced. */
  def explained(plan: LogicalPlan): LogicalPlan = plan.transformUp {
    case node: EvalLLM => node.calls.flatMap(note).distinct.foldLeft(node)((n, text) => n.noted(text))
  }

  private def note(call: LLMCall): Option[RuleNote] = call.prompt match {
    case Unrolled(Reduce(_, false), _, _, _, _) => Some(RuleNote("RewriteAIAggregates", applied = false,
      "not reduced on the map side, because the answer would depend on the partitions (partial => true allows it)"))
    case Unrolled(Reduce(_, true), _, _, _, _) => Some(RuleNote("RewriteAIAggregates", applied = true,
      "reduced on the map side: one answer per group and partition"))
    case Unrolled(Combine(_), _, _, _, _) => Some(RuleNote("RewriteAIAggregates", applied = true,
      "puts the answers of the partitions together, so that the answer depends on them"))
    case _ => None
  }

  /** The columns that texts are collected from. */
  private class Texts {

    val order: Alias = numbered(MonotonicallyIncreasingID(), "order")
    private val texts = mutable.ArrayBuffer.empty[Alias]

    def columns: Seq[Alias] = order +: texts.toSeq

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

    def collected(text: Attribute, distinct: Boolean): Expression = {
      val all = inOrder(order.toAttribute, text)
      if (distinct) ArrayDistinct(all) else all
    }
  }

  private def numbered(number: Expression, name: String): Alias =
    Alias(number, name)(explicitMetadata = Some(orderMark))

  /** The values of a group that are not NULL, in an order. */
  private def inOrder(order: Attribute, value: Attribute): Expression = {
    val entry = CreateNamedStruct(Seq(Literal("order"), order, Literal("text"), value))
    val all = AggregateExpression(CollectList(entry), Complete, isDistinct = false, filter = Some(IsNotNull(value)))
    GetArrayStructFields(SortArray(all, Literal.TrueLiteral),
      entry.dataType("text"), ordinal = 1, numFields = 2, containsNull = value.nullable)
  }

  /** A call over the texts of a group within one partition, and its answer there. */
  private case class Partial(call: LLMCall, text: Attribute, distinct: Boolean, texts: Alias, answer: Alias)

  /** The aggregate with [[AIAgg]]s that are all to be reduced within partitions first. */
  private def inPartitions(a: Aggregate, texts: Texts): LogicalPlan = {
    val partials = mutable.ArrayBuffer.empty[Partial]
    def partial(f: AggregateExpression, agg: AIAgg): Partial = {
      val text = texts.column(f, agg.content)
      val call = agg.call.copy(prompt = within(agg.call.prompt))
      partials.find(p => p.text.semanticEquals(text) && p.distinct == f.isDistinct &&
          p.call.deterministic && p.call.semanticEquals(call)).getOrElse {
        val collected = Alias(Literal(null, call.arguments.head.dataType), "texts")()
        val made = Partial(call, text, f.isDistinct, collected,
          Alias(call.over(Seq(collected.toAttribute)), "partial")())
        partials += made
        made
      }
    }
    // By the aggregate's own id: two draws that are written alike are two.
    val ofAggregates = a.aggregateExpressions.flatMap(_.collect {
      case f @ AggregateExpression(agg: AIAgg, _, _, _, _) => f.resultId -> partial(f, agg)
    }).toMap
    val others = a.aggregateExpressions.flatMap(_.collect {
      case f: AggregateExpression if !f.aggregateFunction.isInstanceOf[AIAgg] => f
    })

    // Every row with its group, its place and its partition.
    val keys = a.groupingExpressions.map {
      case attribute: Attribute => attribute
      case e => Alias(e, "key")()
    }
    val keyAttributes = keys.map(_.toAttribute)
    val partition = AttributeReference("partition", org.apache.spark.sql.types.IntegerType, nullable = false)()
    val rows = NumberPartitions(partition,
      Project(a.child.output ++ texts.columns ++ keys.collect { case key: Alias => key }, a.child))
    val first = partials.filter(_.distinct).map(_.text).distinct.map(text =>
      text -> Alias(firstOf(keyAttributes :+ text, texts.order.toAttribute), "first")()).toMap
    val (ranked, textOf) = if (first.isEmpty) (rows, Map.empty[Attribute, Alias]) else {
      val windows = first.values.foldLeft[LogicalPlan](rows) { (plan, alias) =>
        val spec = alias.child.asInstanceOf[WindowExpression].windowSpec
        Window(Seq(alias), spec.partitionSpec, spec.orderSpec, plan)
      }
      val kept = first.map { case (text, rank) =>
        text -> Alias(If(EqualTo(rank.toAttribute, Literal(1)), text, Literal(null, text.dataType)), "text")()
      }
      (Project(rows.output ++ kept.values, windows), kept)
    }

    // The texts of a group within a partition, and what the other aggregates read of its rows.
    val read = AttributeSet(others.flatMap(_.references)).toSeq
    val entry = CreateNamedStruct(
      if (read.isEmpty) Seq(Literal("row"), Literal(true))
      else read.zipWithIndex.flatMap { case (attribute, i) => Seq(Literal(s"c$i"), attribute) })
    val entries = Alias(AggregateExpression(CollectList(entry), Complete, isDistinct = false), "rows")()
    val collected = Aggregate(keyAttributes :+ partition,
      (keyAttributes :+ partition) ++
        partials.map(p => p.texts.copy(child = inOrder(texts.order.toAttribute,
          if (p.distinct) textOf(p.text).toAttribute else p.text))(
          p.texts.exprId, p.texts.qualifier, p.texts.explicitMetadata, p.texts.nonInheritableMetadataKeys)) ++
        Option.when(others.nonEmpty)(entries),
      ranked)
    val answered = Project((keyAttributes :+ partition) ++ partials.map(p =>
      p.answer.copy(child = p.call.over(Seq(attributeIn(collected, p.texts))))(
        p.answer.exprId, p.answer.qualifier, p.answer.explicitMetadata, p.answer.nonInheritableMetadataKeys)) ++
      Option.when(others.nonEmpty)(entries.toAttribute), collected)

    // Rows again, the first of each partition with the answer.
    val inputs = mutable.LinkedHashMap.empty[ExprId, Alias]
    val (below, answers) = if (others.isEmpty) {
      (answered, partials.map(p => p.answer.exprId -> attributeIn(answered, p.answer)).toMap)
    } else {
      val position = AttributeReference("pos", org.apache.spark.sql.types.IntegerType, nullable = false)()
      val row = AttributeReference("row", entry.dataType, nullable = false)()
      val exploded = Generate(PosExplode(entries.toAttribute), Nil, outer = false, None, Seq(position, row), answered)
      read.zipWithIndex.foreach { case (attribute, i) =>
        inputs(attribute.exprId) = Alias(GetStructField(row, i), attribute.name)()
      }
      val once = partials.map { p =>
        val answer = attributeIn(answered, p.answer)
        p.answer.exprId -> Alias(If(EqualTo(position, Literal(0)), answer, Literal(null, answer.dataType)), "partial")()
      }
      (Project((keyAttributes :+ partition) ++ once.map(_._2) ++ inputs.values, exploded),
        once.map { case (id, alias) => id -> alias.toAttribute }.toMap)
    }

    def above(e: Expression): Expression = e match {
      case f @ AggregateExpression(_: AIAgg, _, _, _, _) =>
        val p = ofAggregates(f.resultId)
        together(p.call, answers(p.answer.exprId), partition)
      case f: AggregateExpression => f.transform {
        case attribute: Attribute if inputs.contains(attribute.exprId) => inputs(attribute.exprId).toAttribute
      }
      case other => a.groupingExpressions.indexWhere(_.semanticEquals(other)) match {
        case -1 => other.mapChildren(above)
        case i => keyAttributes(i)
      }
    }
    Aggregate(keyAttributes, a.aggregateExpressions.map {
      case attribute: Attribute => attribute
      case named => named.mapChildren(above).asInstanceOf[NamedExpression]
    }, below)
  }

  private def attributeIn(plan: LogicalPlan, alias: Alias): Attribute = plan.output.find(_.exprId == alias.exprId).get

  private def firstOf(equal: Seq[Attribute], order: Attribute): WindowExpression = {
    val by = Seq(SortOrder(order, Ascending))
    WindowExpression(RowNumber(), WindowSpecDefinition(equal, by, RowNumber().frame))
  }

  private def within(prompt: PromptSpec): PromptSpec = prompt match {
    case u @ Unrolled(Reduce(budget, _), _, _, _, _) => u.copy(program = Reduce(budget, withinPartition = true))
    case other => other
  }

  /** The call that puts the answers of the partitions together, in their order. */
  private def together(call: LLMCall, answer: Attribute, partition: Attribute): Expression = {
    val merging = call.copy(prompt = call.prompt match {
      case u @ Unrolled(Reduce(budget, _), _, further, _, _) => u.copy(program = Combine(budget), first = further)
      case other => other
    })
    if (call.options.failOnError) {
      merging.over(Seq(inOrder(partition, answer)))
    } else {
      // A partition that failed fails its group, as one call of a tree does.
      def field(i: Int): Expression = GetStructField(answer, i)
      val values = CreateNamedStruct(Seq(Literal("order"), partition, Literal("text"), field(0)))
      val all = AggregateExpression(CollectList(values), Complete, isDistinct = false,
        filter = Some(IsNotNull(field(0))))
      val texts = GetArrayStructFields(SortArray(all, Literal.TrueLiteral), values.dataType("text"), 1, 2,
        containsNull = true)
      val error = GetStructField(AggregateExpression(
        Min(CreateNamedStruct(Seq(Literal("order"), partition, Literal("error"), field(1)))), Complete,
        isDistinct = false, filter = Some(IsNotNull(field(1)))), 1)
      If(IsNotNull(error), CreateNamedStruct(Seq(
        Literal("response"), Literal(null, call.answerType), Literal("errorMessage"), error)),
        merging.over(Seq(texts)))
    }
  }
}
