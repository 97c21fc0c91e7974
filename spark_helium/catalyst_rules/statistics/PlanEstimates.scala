package org.apache.spark.sql.helium.statistics

import scala.collection.mutable
import scala.util.control.NonFatal

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.catalog.{CatalogStatistics, HiveTableRelation}
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.planning.ExtractEquiJoinKeys
import org.apache.spark.sql.catalyst.plans._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.execution.datasources.LogicalRelation
import org.apache.spark.sql.helium.Cluster
import org.apache.spark.sql.helium.expressions.{Choices, ExpressionSize, JsonRecord, LLMCall, Predicates}
import org.apache.spark.sql.helium.plans.{EvalLLM, NumberPartitions}
import org.apache.spark.sql.internal.SQLConf
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.UTF8String

/**
 * A number that a plan is expected to have.
 *
 * @param measured whether it follows from statistics or data alone; false where a default took part
 */
case class Estimate(value: Double, measured: Boolean) {

  def atMost(other: Estimate): Estimate =
    if (other.value < value) other.copy(measured = measured && other.measured) else this

  def *(factor: Double): Estimate = copy(value = value * factor)

  def *(other: Estimate): Estimate = Estimate(value * other.value, measured && other.measured)
}

/**
 * What is expected of a plan: rows, distinct values, share of rows that a predicate keeps, lengths of
 * texts. Statistics come from local data, from the table (`ANALYZE TABLE ... FOR COLUMNS`, also
 * while Spark's own cost-based optimizer is off), and from Spark's estimates where that is on.
 *
 * Where there are none, [[PlanEstimates.Defaults]] stand in, and `measured` is false. An instance
 * remembers what it said about a plan object; make one per run of a rule.
 */
class PlanEstimates {

  import PlanEstimates._

  // Every estimate asks for those below it, more than once.
  private val known = new java.util.IdentityHashMap[LogicalPlan, Estimate]
  private val lengths = mutable.Map.empty[ExprId, Double]


  def rows(plan: LogicalPlan): Estimate = {
    // Not computeIfAbsent: it must not be entered while it runs.
    if (!known.containsKey(plan)) known.put(plan, sparkRows(plan).getOrElse(rowsOf(plan)))
    known.get(plan)
  }

  private def rowsOf(plan: LogicalPlan): Estimate = plan match {
    case local: LocalRelation => Estimate(local.data.size.toDouble, measured = true)
    case leaf: LeafNode => leafRows(leaf)
    case Filter(condition, child) => filtered(condition, child)
    case limit: WindowGroupLimit => rows(limit.child).atMost(firstOf(limit.partitionSpec, limit.limit, limit.child))
    case LocalLimit(IntegerLiteral(n), child) => rows(child).atMost(Estimate(n.toDouble, true))
    case GlobalLimit(IntegerLiteral(n), child) => rows(child).atMost(Estimate(n.toDouble, true))
    case Offset(IntegerLiteral(n), child) =>
      val all = rows(child)
      all.copy(value = (all.value - n).max(0))
    case Sample(low, high, _, _, child, _) => rows(child) * (high - low)
    case Aggregate(keys, _, child, _) if keys.isEmpty => Estimate(1, rows(child).measured)
    case Aggregate(keys, _, child, _) => distinct(keys, child)
    case Distinct(child) => distinct(child.output, child)
    case Expand(projections, _, child) => rows(child) * projections.size.toDouble
    case g: Generate => (rows(g.child) * Defaults.generated).copy(measured = false)
    case u: Union => u.children.map(rows).reduce((a, b) =>
      Estimate(a.value + b.value, a.measured && b.measured))
    case join: Join => joinRows(join)
    case other if other.children.nonEmpty => other.children.map(rows).maxBy(_.value)
    case _ => Estimate(Defaults.rows, measured = false)
  }

  /** A filter on the place of a row within its group leaves so many rows per group. */
  private def filtered(condition: Expression, child: LogicalPlan): Estimate = {
    val conjuncts = Predicates.conjuncts(condition).map(c => c -> firstOfGroups(c, child))
    val first = conjuncts.flatMap(_._2).foldLeft(rows(child))(_ atMost _)
    conjuncts.collect { case (c, None) => selectivity(c, child) }.foldLeft(first)(_ * _)
  }

  private def firstOfGroups(condition: Expression, plan: LogicalPlan): Option[Estimate] = condition match {
    case LessThanOrEqual(place: Attribute, IntegerLiteral(k)) => ranked(place, k, plan)
    case LessThan(place: Attribute, IntegerLiteral(k)) => ranked(place, k - 1, plan)
    case Equality(place: Attribute, IntegerLiteral(_)) => ranked(place, 1, plan)
    case _ => None
  }

  /** The rows up to a place, if an attribute is the place of rows in the groups of a window. */
  private def ranked(place: Attribute, k: Int, plan: LogicalPlan): Option[Estimate] = plan match {
    case w: Window => w.windowExpressions.collectFirst {
      case alias @ Alias(WindowExpression(_: RowNumber | _: Rank | _: DenseRank, _), _)
          if alias.exprId == place.exprId => firstOf(w.partitionSpec, k, w.child)
    }.orElse(ranked(place, k, w.child))
    case Project(list, child) => list.collectFirst {
      case a: Attribute if a.exprId == place.exprId => ranked(a, k, child)
      case alias @ Alias(a: Attribute, _) if alias.exprId == place.exprId => ranked(a, k, child)
    }.flatten
    case node @ (_: Filter | _: EvalLLM) => ranked(place, k, node.children.head)
    case _ => None
  }

  /** At most `k` rows of each group; a group may have fewer, so this is no measurement. */
  private def firstOf(keys: Seq[Expression], k: Int, plan: LogicalPlan): Estimate =
    (distinct(keys, plan) * k.max(0)).copy(measured = false)

  /** Partitions of a plan as it is before Spark makes it a physical one: a guess. */
  private def partitions(plan: LogicalPlan): Double = plan match {
    case range: Range => range.numSlices.getOrElse(Cluster.partitions(1)).toDouble
    case r: RepartitionOperation => r.numPartitions.toDouble
    case u: Union => u.children.map(partitions).sum
    case _: LeafNode => Cluster.partitions(1)
    case _: Project | _: Filter | _: EvalLLM | _: Generate | _: Expand | _: Sample => partitions(plan.children.head)
    case _ => SQLConf.get.numShufflePartitions
  }

  /** How many different values the expressions take together. */
  def distinct(expressions: Seq[Expression], plan: LogicalPlan): Estimate = {
    val open = expressions.flatMap {
      case record: JsonRecord => record.values // two rows with one record have the same values
      case other => Seq(other)
    }.filterNot(_.foldable)
    if (open.isEmpty) {
      Estimate(1, measured = true)
    } else {
      distinctOpen(open, plan).atMost(rows(plan))
    }
  }

  /** Share of the rows for which a predicate over the plan's output is true. */
  def selectivity(condition: Expression, plan: LogicalPlan): Estimate = condition match {
    case Literal.TrueLiteral => Estimate(1, measured = true)
    case Literal(_, BooleanType) => Estimate(0, measured = true)
    case And(left, right) => selectivity(left, plan) * selectivity(right, plan)
    case Or(left, right) =>
      val (l, r) = (selectivity(left, plan), selectivity(right, plan))
      Estimate(1 - (1 - l.value) * (1 - r.value), l.measured && r.measured)
    case Not(IsNull(e)) => selectivity(IsNotNull(e), plan)
    case Not(child) => complement(selectivity(child, plan))
    case IsNull(e) => nulls(e, plan)
    case IsNotNull(e) => complement(nulls(e, plan))
    case EqualNullSafe(e, Literal.TrueLiteral) => selectivity(e, plan)
    case EqualNullSafe(e, Literal.FalseLiteral) => complement(selectivity(e, plan))
    case Equality(e, value) if value.foldable => equality(e, 1, plan)
    case Equality(value, e) if value.foldable => equality(e, 1, plan)
    case In(e, values) if values.forall(_.foldable) => equality(e, values.size, plan)
    case InSet(e, values) => equality(e, values.size, plan)
    case b: BinaryComparison => between(b, plan)
    case _ => Estimate(Defaults.predicate, measured = false)
  }

  /** Mean number of characters of an expression's text. */
  def textLength(e: Expression, plan: LogicalPlan): Double = e match {
    case Literal(s: UTF8String, _) => s.numChars().toDouble
    case Literal(null, _) => 0
    case Alias(child, _) => textLength(child, plan)
    case a: Attribute =>
      if (!lengths.contains(a.exprId)) {
        lengths(a.exprId) = callOf(a, plan).filter(_.options.task.completes)
          .map(outputTokens(_) * Tokens.charactersPerToken)
          .orElse(columnLength(a, plan)).getOrElse(typeLength(a.dataType))
      }
      lengths(a.exprId)
    case Cast(child, _: StringType, _, _) => textLength(child, plan)
    case Concat(children) => children.map(textLength(_, plan)).sum
    case ConcatWs(separator +: items) =>
      items.map(textLength(_, plan)).sum + textLength(separator, plan) * (items.size - 1).max(0)
    case Coalesce(first +: _) => textLength(first, plan)
    case r: JsonRecord => 1.0 + r.overheads.sum + r.values.map(jsonLength(_, plan)).sum
    case other => typeLength(other.dataType)
  }

  /** Whether [[textLength]] needs no default; a number or a date counts as known. */
  def knowsLength(e: Expression, plan: LogicalPlan): Boolean = e match {
    case a: Attribute =>
      plan.collectFirst {
        case p @ Project(list, _) if list.exists(isAliasOf(a)) =>
          list.find(isAliasOf(a)).get.children.forall(knowsLength(_, p.child))
      }.getOrElse {
        !a.dataType.isInstanceOf[StringType] || columnLength(a, plan).nonEmpty && callOf(a, plan).isEmpty
      }
    case other => other.children.forall(knowsLength(_, plan))
  }

  /** Mean number of characters of a value as JSON. */
  def jsonLength(e: Expression, plan: LogicalPlan): Double =
    textLength(e, plan) + (if (e.dataType.isInstanceOf[StringType]) 2 else 0)

  /** Most tokens that a call's answer is expected to have. */
  def outputTokens(call: LLMCall): Double = call.options.constraint match {
    case Some(Choices(values)) => Tokens.of(values.map(_.length).max.toDouble)
    case _ => call.options.sampling.maxTokens.toDouble
  }

  /** The call below whose answer an attribute is. */
  def callOf(answer: Attribute, plan: LogicalPlan): Option[LLMCall] = plan.collectFirst {
    case node: EvalLLM if node.answers.exists(_.exprId == answer.exprId) =>
      node.calls(node.answers.indexWhere(_.exprId == answer.exprId))
  }

  /**
   * Share of one side's rows that find a partner in an inner join, and how many rows the join has.
   *
   * @param side the side in question; `left` says which one it is
   */
  def joinedShare(join: Join, left: Boolean): Estimate = {
    val (side, other) = if (left) (join.left, join.right) else (join.right, join.left)
    keysOf(join) match {
      case Some((leftKeys, rightKeys)) =>
        val (own, others) = if (left) (leftKeys, rightKeys) else (rightKeys, leftKeys)
        val ownValues = distinct(own, side)
        val otherValues = distinct(others, other)
        if (ownValues.measured && otherValues.measured) {
          Estimate((otherValues.value / ownValues.value.max(1)).min(1), measured = true)
        } else {
          Estimate(Defaults.joined, measured = false)
        }
      case None => Estimate(1, measured = join.condition.isEmpty)
    }
  }

  private def joinRows(join: Join): Estimate = {
    val (left, right) = (rows(join.left), rows(join.right))
    val inner = keysOf(join) match {
      case Some((leftKeys, rightKeys)) =>
        val values = Seq(distinct(leftKeys, join.left), distinct(rightKeys, join.right))
        val most = values.maxBy(_.value)
        val product = left * right
        Estimate(product.value / most.value.max(1), product.measured && values.forall(_.measured))
      case None =>
        join.condition.fold(left * right)(_ => (left * right * Defaults.range).copy(measured = false))
    }
    join.joinType match {
      case LeftSemi => left * joinedShare(join, left = true)
      case LeftAnti => left * complement(joinedShare(join, left = true))
      case LeftOuter | ExistenceJoin(_) if inner.value < left.value => left
      case ExistenceJoin(_) => left
      case RightOuter if inner.value < right.value => right
      case FullOuter => Estimate(inner.value.max(left.value + right.value), inner.measured)
      case _ => inner
    }
  }

  private def keysOf(join: Join): Option[(Seq[Expression], Seq[Expression])] = join match {
    case ExtractEquiJoinKeys(_, leftKeys, rightKeys, _, _, _, _, _) => Some((leftKeys, rightKeys))
    case _ => None
  }

  private def complement(share: Estimate): Estimate = share.copy(value = 1 - share.value)

  /** Spark's own estimate, which it makes for every operator when its optimizer goes by cost. */
  private def sparkRows(plan: LogicalPlan): Option[Estimate] = plan match {
    case _: EvalLLM => None // its statistics come from here
    case _ if SQLConf.get.cboEnabled =>
      plan.stats.rowCount.map(n => Estimate(n.toDouble, measured = true))
    case _ => None
  }

  private def leafRows(leaf: LeafNode): Estimate = tableStatistics(leaf).flatMap(_.rowCount)
    .orElse(if (leaf.isStreaming) None else leaf.stats.rowCount)
    .map(n => Estimate(n.toDouble, measured = true))
    .getOrElse {
      val bytes = if (leaf.isStreaming) SQLConf.get.defaultSizeInBytes
        else leaf.stats.sizeInBytes.min(BigInt(Long.MaxValue)).toLong
      if (bytes >= SQLConf.get.defaultSizeInBytes) {
        Estimate(Defaults.rows, measured = false)
      } else {
        val width = leaf.output.map(a => typeLength(a.dataType)).sum.max(1)
        Estimate((bytes / width).max(1), measured = false)
      }
    }

  private def tableStatistics(leaf: LeafNode): Option[CatalogStatistics] = leaf match {
    case relation: LogicalRelation => relation.catalogTable.flatMap(_.stats)
    case hive: HiveTableRelation => hive.tableMeta.stats
    case _ => None
  }

  /** What is known of a column; `nulls` is their share of the rows. */
  private case class Column(
      distinct: Option[Double] = None,
      length: Option[Double] = None,
      min: Option[Double] = None,
      max: Option[Double] = None,
      nulls: Option[Double] = None)

  /** Statistics of a column of a leaf below, through whatever passes the column on. */
  private def column(a: Attribute, plan: LogicalPlan): Option[Column] = plan.collectFirst {
    case leaf: LeafNode if leaf.outputSet.contains(a) && !leaf.isStreaming =>
      val ofTable = tableStatistics(leaf).flatMap(_.colStats.get(a.name))
        .map(_.toPlanStat(a.name, a.dataType))
      ofTable.orElse(leaf.stats.attributeStats.get(a)).map { s =>
        Column(s.distinctCount.map(_.toDouble), s.avgLen.map(_.toDouble), number(s.min), number(s.max),
          s.nullCount.map(_.toDouble / rows(leaf).value.max(1)))
      }
  }.flatten.orElse(plan.collectFirst {
    case range: Range if range.outputSet.contains(a) && range.numElements > 0 =>
      val ends = Seq(range.start.toDouble, range.start.toDouble + range.step.toDouble *
        (range.numElements.toDouble - 1))
      Column(Some(range.numElements.toDouble), None, Some(ends.min), Some(ends.max))
  }).orElse(plan.collectFirst {
    case local: LocalRelation if local.outputSet.contains(a) && local.data.nonEmpty &&
        local.data.size <= mostRowsToCount =>
      val position = local.output.indexWhere(_.exprId == a.exprId)
      Column(nulls = Some(local.data.count(_.isNullAt(position)).toDouble / local.data.size))
  })

  private def number(value: Option[Any]): Option[Double] = value.collect {
    case n: Number => n.doubleValue()
    case d: Decimal => d.toDouble
  }

  private def distinctOpen(expressions: Seq[Expression], plan: LogicalPlan): Estimate = plan match {
    case local: LocalRelation if local.data.size <= mostRowsToCount =>
      counted(expressions, local).getOrElse(byColumn(expressions, plan))
    case Project(list, child) =>
      val aliases = AttributeMap(list.collect { case a: Alias => a.toAttribute -> a.child })
      val opened = expressions.map(_.transform { case a: Attribute => aliases.getOrElse(a, a) })
      if (opened.forall(ExpressionSize.isSmall(_))) distinct(opened, child)
      else rows(plan).copy(measured = false)
    case Aggregate(keys, list, _, _) if keys.nonEmpty && isKey(keys, list, expressions) => rows(plan)
    case Aggregate(keys, list, child, _) if areOf(keys, list, expressions) => distinct(grouped(list, expressions), child)
    case _: Filter | _: Sort | _: LocalLimit | _: GlobalLimit | _: Offset | _: Sample | _: Distinct |
        _: RepartitionByExpression | _: Repartition | _: SubqueryAlias =>
      distinct(expressions, plan.children.head)
    case node @ (_: EvalLLM | _: Window | _: WindowGroupLimit | _: NumberPartitions)
        if expressions.forall(_.references.subsetOf(node.children.head.outputSet)) =>
      distinct(expressions, node.children.head)
    case NumberPartitions(partition, child) if expressions.exists(_.semanticEquals(partition)) =>
      distinct(expressions.filterNot(_.semanticEquals(partition)), plan) *
        Estimate(partitions(child), measured = false)
    case join: Join =>
      val sides = expressions.groupBy(e => join.children.find(c => e.references.subsetOf(c.outputSet)))
      // No more pairs than each side has values, one with each of the other's.
      if (sides.contains(None)) byColumn(expressions, plan)
      else sides.map { case (side, own) => distinct(own, side.get) }.reduce(_ * _)
    case _ => byColumn(expressions, plan)
  }

  /** Whether the expressions are all of an aggregate's keys, so that no two rows agree on them. */
  private def isKey(
      keys: Seq[Expression], list: Seq[NamedExpression], expressions: Seq[Expression]): Boolean = {
    val inner = grouped(list, expressions.collect { case a: Attribute => a })
    keys.forall(k => inner.exists(_.semanticEquals(k)))
  }

  /** Whether the expressions are some of an aggregate's keys, which take the values that they take below it. */
  private def areOf(keys: Seq[Expression], list: Seq[NamedExpression], expressions: Seq[Expression]): Boolean =
    grouped(list, expressions).forall(e => keys.exists(_.semanticEquals(e)))

  /** What attributes above an aggregate are in terms of its input. */
  private def grouped(list: Seq[NamedExpression], expressions: Seq[Expression]): Seq[Expression] = {
    val produced = AttributeMap(list.collect { case alias: Alias => alias.toAttribute -> alias.child })
    expressions.map {
      case a: Attribute => produced.getOrElse(a, a)
      case other => other
    }
  }

  /** An exact count over the rows of a local relation. */
  private def counted(expressions: Seq[Expression], local: LocalRelation): Option[Estimate] =
    try {
      if (!expressions.forall(e => e.deterministic && e.references.subsetOf(local.outputSet) &&
          !e.exists(x => x.isInstanceOf[Unevaluable] && !x.isInstanceOf[Attribute]))) {
        None
      } else {
        val project = SafeProjection.create(expressions, local.output)
        val types = expressions.map(_.dataType)
        val seen = local.data.iterator.map((row: InternalRow) => project(row).copy().toSeq(types))
        Some(Estimate(seen.toSet.size.toDouble, measured = true))
      }
    } catch {
      // An expression may fail on a row, and is then the query's business, not ours.
      case NonFatal(_) => None
    }

  /** A function of some columns takes no more values than they do together. */
  private def byColumn(expressions: Seq[Expression], plan: LogicalPlan): Estimate = {
    val bounds = expressions.map {
      case a: Attribute => columnValues(a, plan)
      case other => boundOf(other, plan)
    }
    bounds.reduce(_ * _)
  }

  private def boundOf(e: Expression, plan: LogicalPlan): Estimate = e match {
    case Remainder(_, Literal(n: Number, _), _) => Estimate(n.doubleValue().abs, measured = true)
    case Pmod(_, Literal(n: Number, _), _) => Estimate(n.doubleValue().abs, measured = true)
    case a: Attribute => columnValues(a, plan)
    case _ if e.foldable => Estimate(1, measured = true)
    case _ if e.children.isEmpty || !e.deterministic => Estimate(rows(plan).value, measured = false)
    case other => other.children.map(boundOf(_, plan)).reduce(_ * _)
  }

  private def columnValues(a: Attribute, plan: LogicalPlan): Estimate =
    callOf(a, plan).flatMap(_.options.constraint).collect {
      case Choices(values) => Estimate(values.size.toDouble, measured = true)
    }.orElse(column(a, plan).flatMap(_.distinct).map(n => Estimate(n.max(1), measured = true)))
      .getOrElse(rows(plan).copy(measured = false))

  private def nulls(e: Expression, plan: LogicalPlan): Estimate = e match {
    case _ if !e.nullable => Estimate(0, measured = true)
    case a: Attribute => column(a, plan).flatMap(_.nulls).map(Estimate(_, measured = true))
      .getOrElse(Estimate(Defaults.isNull, measured = false))
    case _ => Estimate(Defaults.isNull, measured = false)
  }

  private def equality(e: Expression, values: Int, plan: LogicalPlan): Estimate = {
    val known = distinct(Seq(e), plan)
    if (known.measured) {
      Estimate((values / known.value.max(1)).min(1), measured = true)
    } else {
      val one = if (e.references.exists(callOf(_, plan).isDefined)) Defaults.predicate
        else Defaults.equality
      Estimate((one * values).min(1), measured = false)
    }
  }

  /** A comparison with a number, by the column's smallest and largest value. */
  private def between(comparison: BinaryComparison, plan: LogicalPlan): Estimate = {
    val share = comparison match {
      case BinaryComparison(a: Attribute, Literal(n: Number, _)) =>
        position(a, n.doubleValue(), plan).map(comparison match {
          case _: LessThan | _: LessThanOrEqual => identity[Double]
          case _ => 1 - (_: Double)
        })
      case _ => None
    }
    share.fold(Estimate(Defaults.range, measured = false))(Estimate(_, measured = true))
  }

  /** Share of a column's range that lies below a number. */
  private def position(a: Attribute, n: Double, plan: LogicalPlan): Option[Double] = for {
    known <- column(a, plan)
    min <- known.min
    max <- known.max
  } yield if (max <= min) { if (n > min) 1.0 else 0.0 } else ((n - min) / (max - min)).max(0).min(1)

  private def columnLength(a: Attribute, plan: LogicalPlan): Option[Double] =
    column(a, plan).flatMap(_.length).orElse(plan.collectFirst {
      case local: LocalRelation if local.outputSet.contains(a) && local.data.nonEmpty &&
          local.data.size <= mostRowsToCount && a.dataType.isInstanceOf[StringType] =>
        val position = local.output.indexWhere(_.exprId == a.exprId)
        local.data.map(r => if (r.isNullAt(position)) 0 else r.getUTF8String(position).numChars())
          .sum.toDouble / local.data.size
    }).orElse(plan.collectFirst {
      case project @ Project(list, _) if list.exists(isAliasOf(a)) =>
        textLength(list.find(isAliasOf(a)).get, project.child)
    })

  private def isAliasOf(a: Attribute)(e: NamedExpression): Boolean =
    e.isInstanceOf[Alias] && e.exprId == a.exprId

  private def typeLength(dataType: DataType): Double = dataType match {
    case _: StringType | BinaryType => Defaults.textLength
    case ArrayType(element, _) => 4 * typeLength(element)
    case StructType(fields) => fields.map(f => typeLength(f.dataType)).sum
    case other => other.defaultSize.toDouble
  }
}

object PlanEstimates {

  /** What is assumed where nothing is known. */
  object Defaults {
    /** Rows of a source of unknown size. */
    val rows = 1000.0
    /** Share of rows that a predicate keeps: equality, a range, IS NULL, anything else. */
    val equality = 0.1
    val range = 1.0 / 3
    val isNull = 0.05
    val predicate = 0.5
    /** Share of one side's rows that find a partner in an equality join. */
    val joined = 0.5
    /** Rows out of a generator such as explode, per row in. */
    val generated = 4.0
    /** Characters of a text column. */
    val textLength = 64.0
  }

  // Exact counting looks at each row; planning has to stay cheap.
  private val mostRowsToCount = 10000
}
