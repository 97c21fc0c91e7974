package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.expressions.SamplingOptions
import org.apache.spark.sql.helium.testing.PlanSuite

class OrderLLMFiltersSuite extends PlanSuite {

  private val long = call("A long question, with many words in it, about this text: {0}", body)
  private val short = call("{0}?", body)
  private val (a, b) = (answer(long), answer(short))

  private def order(plan: LogicalPlan): LogicalPlan = {
    val result = OrderLLMFilters(plan)
    equal(OrderLLMFilters(result), result, "idempotent")
    equal(result.output.map(_.exprId), plan.output.map(_.exprId), "the output must stay")
    result
  }

  test("the cheaper conjunct runs first, the other for what is left, the rest last") {
    val more = call("Sum up {0}", title)
    val c = answer(more)
    val both = And(yes(a), yes(b))
    val node = eval(long -> a, short -> b, more -> c)(relation)
    samePlan(order(Filter(both, node)),
      Project(node.output, Filter(both, eval(
        short -> b,
        long.copy(guard = Some(yes(b))) -> a,
        more.copy(guard = Some(And(yes(b), yes(a)))) -> c)(relation))))
  }

  test("a call that another conjunct needs anyway costs nothing more") {
    // b <> 'no' comes free after b = 'yes'; it goes before the long call.
    val free = Not(EqualTo(b, Literal("no")))
    val condition = And(And(yes(a), yes(b)), free)
    val ordered = order(Filter(condition, eval(short -> b, long -> a)(relation)))
    samePlan(ordered, Filter(condition,
      eval(short -> b, long.copy(guard = Some(And(yes(b), free))) -> a)(relation)))
  }

  test("a call whose prompt reads another comes after it") {
    val why = call("Why {0}?", a)
    val c = answer(why)
    val condition = And(yes(c), yes(b))
    samePlan(order(Filter(condition, eval(long -> a, why -> c, short -> b)(relation))),
      Project(relation.output ++ Seq(a, c, b), Filter(condition, eval(
        short -> b, long.copy(guard = Some(yes(b))) -> a,
        why.copy(guard = Some(yes(b))) -> c)(relation))))
  }

  test("one conjunct, one call: nothing to do; and nothing for a disjunction") {
    val alone = Filter(yes(a), eval(long -> a)(relation))
    equal(order(alone) eq alone, true)
    val either = Filter(Or(yes(a), yes(b)), eval(long -> a, short -> b)(relation))
    equal(order(either) eq either, true)
  }

  test("calls with a temperature keep their rows") {
    val draw = callWith(SamplingOptions(16, temperature = 1.0))("Draw {0}", body)
    val c = answer(draw)
    val plan = Filter(yes(a), eval(long -> a, draw -> c)(relation))
    samePlan(withoutNotes(order(plan)), plan)
  }

  test("switched off") {
    val plan = Filter(And(yes(a), yes(b)), eval(long -> a, short -> b)(relation))
    withSetting("spark.helium.optimizer.orderLLMFilters.enabled", "false") {
      equal(OrderLLMFilters(plan) eq plan, true)
    }
  }
}
