package org.apache.spark.sql.helium.plans

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.testing.PlanSuite

class CallGraphSuite extends PlanSuite {

  test("inputs are listed once, earlier answers by index") {
    val first = call("Shorten {0}", body)
    val short = answer(first)
    val second = call("{0}: translate {1} ({0})", Upper(title), short)
    val third = call("{0} {1}", body, Upper(title))
    val graph = CallGraph.of(Seq(first, second, third), Seq(short, answer(second), answer(third)))
    equal(graph.inputs, Seq(body, Upper(title)))
    equal(graph.calls.map(_.sources), Seq(
      Seq(CallGraph.Input(0)),
      Seq(CallGraph.Input(1), CallGraph.Answer(0)),
      Seq(CallGraph.Input(0), CallGraph.Input(1))))
  }

  test("the JSON that Python reads") {
    val first = call("Shorten {0}", body)
    equal(CallGraph.render(CallGraph.of(Seq(first), Seq(answer(first))).toJson),
      """{"version":1,"inputs":1,"calls":[{"function":"llm","model":"smollm2-135m",""" +
      """"messages":[{"role":"user","parts":["Shorten ",{"input":0}]}],""" +
      """"sampling":{"max_tokens":16,"temperature":0.0,"top_p":1.0,"seed":null,"stop":[]},""" +
      """"result_type":"\"string\"","fail_on_error":true,"multiplicity":1}]}""")
  }
}
