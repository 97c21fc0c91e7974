package org.apache.spark.sql.helium.plans

import org.json4s.{JArray, JNothing}

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.expressions.{Cascade, LLMCall}
import org.apache.spark.sql.helium.expressions.functions.Folds
import org.apache.spark.sql.helium.testing.PlanSuite
import org.apache.spark.sql.types.{ArrayType, StringType}

class CallGraphSuite extends PlanSuite {

  test("inputs are listed once, earlier answers by index") {
    val first = call("Shorten {0}", body)
    val short = answer(first)
    val second = call("{0}: translate {1} ({0})", Upper(title), short)
    val third = call("{0} {1}", body, Upper(title))
    val graph = CallGraph.of(Seq(first, second, third), Seq(short, answer(second), answer(third)))
    equal(graph.inputs, Seq(body, Upper(title)))
    equal(graph.calls.map(_.arguments.map(a => CallGraph.render(JArray(a)))), Seq(
      Seq("""[{"input":0}]"""),
      Seq("""[{"input":1}]""", """[{"call":0}]"""),
      Seq("""[{"input":0}]""", """[{"input":1}]""")))
  }

  test("the JSON that Python reads") {
    val first = call("Shorten {0}", body)
    equal(CallGraph.render(CallGraph.of(Seq(first), Seq(answer(first))).toJson),
      """{"version":4,"inputs":1,"calls":[{"function":"llm","task":"generate","model":"smollm2-135m",""" +
      """"messages":[{"role":"user","parts":["Shorten ",{"input":0}]}],""" +
      """"sampling":{"max_tokens":16,"temperature":0.0,"top_p":1.0,"seed":null,"stop":[]},""" +
      """"result_type":"\"string\"","fail_on_error":true,"multiplicity":1}],"filters":[]}""")
  }

  test("a cascade travels with its call") {
    val first = call("Good? {0}", body)
    val proxied = first.copy(options = first.options.copy(cascade = Some(Cascade("small", 0.9, 0.95, 300))))
    val json = CallGraph.of(Seq(first, proxied), Seq(answer(first), answer(proxied))).toJson
    equal((json \ "calls")(0) \ "cascade", JNothing)
    equal(CallGraph.render((json \ "calls")(1) \ "cascade"),
      """{"model":"small","precision":0.9,"recall":0.95,"sample":300}""")
  }

  test("a call over an array travels with what its further calls ask") {
    val chunks = AttributeReference("chunks", ArrayType(StringType))()
    val fold = Folds.functions.head.builder(Seq(chunks, Literal("a {0}"), Literal("{0} b {1}")))
      .asInstanceOf[LLMCall]
    val first = call("Shorten {0}", body)
    val json = CallGraph.of(Seq(first, fold), Seq(answer(first), answer(fold))).toJson
    equal(CallGraph.render((json \ "calls")(1) \ "messages"),
      """[{"role":"user","parts":["a ",{"input":1}]}]""")
    equal(CallGraph.render((json \ "calls")(1) \ "composite"),
      """{"kind":"fold","items":{"input":1},"further":[{"role":"user","parts":[{"call":1}," b ",{"input":1}]}],""" +
      """"budget":0}""")
  }

  test("what the prompts read from below, in their order") {
    val first = call("Shorten {0}", body)
    val short = answer(first)
    val second = call("{0}: {1}", Concat(Seq(short, Upper(title))), body)
    equal(CallGraph.inputsOf(Seq(first, second), Seq(short, answer(second))),
      Seq(body, Upper(title)))
  }
}
