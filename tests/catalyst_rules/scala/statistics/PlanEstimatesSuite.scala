package org.apache.spark.sql.helium.statistics

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.aggregate.Count
import org.apache.spark.sql.catalyst.plans._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.plans.NumberPartitions
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.UTF8String

class PlanEstimatesSuite extends PlanSuite {

  private val local = LocalRelation(Seq(id, body), (0 until 20).map(i =>
    InternalRow(i, UTF8String.fromString("abcd" * (1 + i % 2)))))

  private def plans = new PlanEstimates

  test("rows and distinct values of local data are counted") {
    equal(plans.rows(local), Estimate(20, measured = true))
    equal(plans.distinct(Seq(body), local), Estimate(2, measured = true))
    equal(plans.distinct(Seq(Concat(Seq(body, Literal("x")))), local), Estimate(2, measured = true))
    equal(plans.textLength(body, local), 6.0)
  }

  test("a range, a remainder of it, and a share of it") {
    val range = Range(0, 1000, 1, 1)
    val n = range.output.head
    equal(plans.rows(range), Estimate(1000, measured = true))
    equal(plans.distinct(Seq(Remainder(n, Literal(10L))), range), Estimate(10, measured = true))
    val some = plans.rows(Filter(LessThan(n, Literal(100L)), range))
    equal((some.value - 100).abs < 1, true, some.toString)
  }

  test("limits, aggregates, unions") {
    equal(plans.rows(Limit(Literal(3), local)).value, 3.0)
    equal(plans.rows(Aggregate(Seq(body), Seq(body), local)), Estimate(2, measured = true))
    equal(plans.rows(Union(Seq(local, local))).value, 40.0)
  }

  test("of the rows that a window numbers, the first ones of each group") {
    val place = Alias(WindowExpression(RowNumber(),
      WindowSpecDefinition(Seq(body), Seq(SortOrder(id, Ascending)), RowNumber().frame)), "place")()
    val window = Window(Seq(place), Seq(body), Seq(SortOrder(id, Ascending)), local)
    val at = place.toAttribute
    def kept(condition: Expression, child: LogicalPlan = window): Double = plans.rows(Filter(condition, child)).value
    equal(kept(LessThanOrEqual(at, Literal(3))), 6.0)
    equal(kept(LessThan(at, Literal(3))), 4.0)
    equal(kept(EqualTo(at, Literal(2))), 2.0)
    equal(kept(LessThanOrEqual(at, Literal(15))), 20.0, "no more than there are")
    equal(kept(And(LessThanOrEqual(at, Literal(3)), EqualTo(body, Literal("abcd")))), 3.0)
    equal(plans.rows(Filter(LessThanOrEqual(at, Literal(3)), window)).measured, false, "groups may be small")
    val renamed = Alias(at, "n")()
    equal(kept(LessThanOrEqual(renamed.toAttribute, Literal(3)), Project(Seq(body, renamed), window)), 6.0)
    equal(plans.rows(WindowGroupLimit(Seq(body), Seq(SortOrder(id, Ascending)), RowNumber(), 3, local)).value, 6.0)
    equal(plans.distinct(Seq(body), window), Estimate(2, measured = true))
    val total = Alias(WindowExpression(Count(id).toAggregateExpression(),
      WindowSpecDefinition(Seq(body), Nil, UnspecifiedFrame)), "total")()
    val counted = Window(Seq(total), Seq(body), Nil, local)
    equal(kept(LessThanOrEqual(total.toAttribute, Literal(3)), counted).round, 7L, "a count is no place")
  }

  test("groups within numbered partitions, and above them") {
    val partition = AttributeReference("partition", IntegerType, nullable = false)()
    val numbered = NumberPartitions(partition, RepartitionByExpression(Nil, local, 4))
    equal(plans.distinct(Seq(body, partition), numbered), Estimate(2 * 4, measured = false))
    equal(plans.distinct(Seq(id, partition), numbered).value, 20.0, "no more than rows")
    val within = Aggregate(Seq(body, partition), Seq(body, partition), numbered)
    equal(plans.rows(within).value, 8.0)
    equal(plans.rows(Aggregate(Seq(body), Seq(body), within)), Estimate(2, measured = true))
  }

  test("an equality join of known sides") {
    val key = AttributeReference("key", IntegerType)()
    val few = LocalRelation(Seq(key), (0 until 5).map(i => InternalRow(i)))
    val join = Join(local, few, Inner, Some(EqualTo(id, key)), JoinHint.NONE)
    equal(plans.joinedShare(join, left = true), Estimate(0.25, measured = true))
    equal(plans.rows(join), Estimate(5, measured = true))
    equal(plans.distinct(Seq(body, key), join), Estimate(5, measured = true), "no more than rows")
  }

  test("a join has no more different pairs than its sides have values") {
    val key = AttributeReference("key", IntegerType)()
    val few = LocalRelation(Seq(key), (0 until 5).map(i => InternalRow(i)))
    val join = Join(local, few, Inner, None, JoinHint.NONE)
    equal(plans.distinct(Seq(body, key), join), Estimate(2 * 5, measured = true))
    val written = Seq(Concat(Seq(body, Literal("x"))), key)
    equal(plans.distinct(written, join), Estimate(2 * 5, measured = true), "of an expression over one side")
    equal(plans.distinct(Seq(body, id, key), join), Estimate(20 * 5, measured = true), "of several columns of a side")
  }

  test("a call's choices say how many answers there are and how often one comes") {
    val question = call("Good? {0}", body)
    val chosen = question.copy(options = question.options.copy(constraint =
      Some(org.apache.spark.sql.helium.expressions.Choices(Seq("yes", "no", "maybe", "never")))))
    val a = answer(chosen)
    val node = eval(chosen -> a)(local)
    equal(plans.selectivity(yes(a), node), Estimate(0.25, measured = true))
    equal(plans.distinct(Seq(a), node).value, 4.0)
  }

  test("the inputs of a graph in which each call reads all of the round before") {
    val first = Seq.tabulate(8)(i => call(s"$i {0}", body)).map(c => c -> answer(c))
    val rounds = (1 to 20).scanLeft(first) { (before, n) =>
      Seq.tabulate(8)(i => call(s"$n $i {0}", Concat(before.map(_._2)))).map(c => c -> answer(c))
    }
    val node = eval(rounds.flatten: _*)(local)
    val costs = new CallEstimates(plans)
    equal(costs.distinctInputs(node.calls.last, node), Estimate(2, measured = true))
  }

  test("what is not known is said to be a default") {
    equal(plans.rows(relation).measured, true) // an empty relation is known to be empty
    equal(plans.selectivity(GreaterThan(Length(body), Literal(3)), local).measured, false)
  }
}
