package org.apache.spark.sql.helium.plans

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.expressions.SamplingOptions
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types.DoubleType

class LLMFiltersSuite extends PlanSuite {

  private val (first, second) = (call("{0}?", body), call("{0}!", body))
  private val (a, b) = (answer(first), answer(second))
  private val node = eval(first -> a, second -> b)(relation)

  test("conditions on answers, and not those on columns") {
    val condition = And(And(yes(a), GreaterThan(id, Literal(3L))), yes(b))
    equal(LLMFilters.forDaemon(condition, node), Seq(yes(a), yes(b)))
  }

  test("none where one alone is free") {
    equal(LLMFilters.forDaemon(yes(a), node), Nil)
    equal(LLMFilters.forDaemon(Or(yes(a), yes(b)), node), Nil)
  }

  test("none where a conjunct has to stay where it is") {
    val fails = EqualTo(Divide(Literal(1.0), Cast(id, DoubleType)), Literal(2.0))
    equal(LLMFilters.forDaemon(And(And(yes(a), yes(b)), fails), node), Nil)
    equal(LLMFilters.forDaemon(And(And(yes(a), yes(b)), LessThan(Rand(7), Literal(0.5))), node), Nil)
  }

  test("none where the daemon cannot evaluate one") {
    equal(LLMFilters.forDaemon(And(yes(a), GreaterThan(Length(b), Literal(3))), node), Nil)
  }

  test("none beside a draw, which runs for each row that the text says") {
    val draw = callWith(SamplingOptions(16, temperature = 1.0))("Draw {0}", body)
    val c = answer(draw)
    equal(LLMFilters.forDaemon(And(yes(a), yes(c)), eval(first -> a, draw -> c)(relation)), Nil)
  }

  test("the call graph holds them") {
    val graph = CallGraph.of(Seq(first, second), Seq(a, b), Seq(yes(a), yes(b)))
    equal(graph.filters.map(CallGraph.render), Seq(
      """{"equal":[[{"call":0}],[{"data":"yes"}]]}""", """{"equal":[[{"call":1}],[{"data":"yes"}]]}"""))
  }
}
