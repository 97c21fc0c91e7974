package org.apache.spark.sql.helium.expressions.functions

import org.json4s._

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.plans.{CallGraph, EvalLLM}
import org.apache.spark.sql.helium.statistics.{CallEstimate, CallEstimates}
import org.apache.spark.sql.helium.testing.FunctionSuite
import org.apache.spark.sql.types._

class EmbeddingsSuite extends FunctionSuite {

  test("a vector of the bare text") {
    val call = built("ai_embed")(body)
    equal(template(call), "{0}")
    equal(call.options.task, Embedding)
    equal(call.dataType, ArrayType(FloatType, containsNull = false))
    equal(call.describe, s"ai_embed($body, model => 'smollm2-135m')")
    equal(built("ai_embed")(id).arguments, Seq(Cast(id, StringType)))
  }

  test("a model by position and by name") {
    val path = "org/model"
    equal(built("ai_embed")(body, Literal(path)).options.model, path)
    equal(built("ai_count_tokens")(body, named("model", path)).options.model, path)
    equal(condition("ai_embed")(body, Literal("smolm")), "HELIUM_UNKNOWN_MODEL")
    equal(condition("ai_embed")(body, named("max_tokens", 3)), "HELIUM_UNKNOWN_OPTION")
    equal(condition("ai_embed")(CreateArray(Seq(body))), "HELIUM_ARGUMENT_TYPE")
  }

  test("similarity is Spark's cosine of two vectors, which are those of ai_embed") {
    expression("ai_similarity")(body, Literal("heavy")) match {
      case If(IsNotNull(known), VectorCosineSimilarity(one: LLMCall, other: LLMCall), Literal(null, FloatType)) =>
        equal(known, body)
        equal(one.semanticEquals(built("ai_embed")(body)), true)
        equal(other.arguments, Seq(Literal("heavy")))
      case other => throw new AssertionError(s"$other")
    }
    val certain = expression("ai_similarity")(Literal("a"), Literal("b"), named("failOnError", false))
    equal(certain.isInstanceOf[VectorCosineSimilarity], true)
    equal(certain.children.forall(_.isInstanceOf[GetStructField]), true)
    equal(certain.resolved, true)
    equal(condition("ai_similarity")(body), "HELIUM_ARGUMENTS")
  }

  test("a count is an INT") {
    val call = built("ai_count_tokens")(body)
    equal(call.options.task, TokenCount)
    equal(call.dataType, IntegerType)
    equal(call.semanticEquals(built("ai_embed")(body)), false)
  }

  private def node(calls: LLMCall*): EvalLLM = EvalLLM(calls, calls.map(EvalLLM.answerOf(_)), relation)

  test("nothing is generated, and a count asks no model") {
    val calls = Seq(built("ai_score")(Literal("{0}"), body), built("ai_embed")(body), built("ai_count_tokens")(body))
    val Seq(score, vector, count) = new CallEstimates().of(node(calls: _*))
    equal(score.outputTokens, 1.0)
    equal(vector.outputTokens, 0.0)
    equal(vector.promptTokens < score.promptTokens, true)
    equal(count, CallEstimate.none)
    equal(new CallEstimates().tokens(calls.last, relation), 0.0)
  }

  test("the call graph names the task, and the choices of a score") {
    val calls = Seq(built("ai_score")(Literal("{0}"), body), built("ai_embed")(body), built("ai_count_tokens")(body))
    val written = CallGraph.of(calls, node(calls: _*).answers).toJson \ "calls"
    equal((written \ "task").children.collect { case JString(name) => name }, List("score", "embed", "count_tokens"))
    equal(written(0) \ "constraint", JObject("choices" -> JArray(List(JString("yes"), JString("no")))))
    equal(written(1) \ "constraint", JNothing)
    equal(written(1) \ "sampling" \ "max_tokens", JInt(0))
    equal(written(2) \ "result_type", JString("\"integer\""))
  }
}
