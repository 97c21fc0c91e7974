package org.apache.spark.sql.helium.expressions.functions

import java.io.{ByteArrayInputStream, ByteArrayOutputStream, ObjectInputStream, ObjectOutputStream}

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.testing.FunctionSuite
import org.apache.spark.sql.types.DoubleType

class ScoresSuite extends FunctionSuite {

  private val question = Literal("Is this angry? {0}")

  test("a question behind an instruction that all rows share") {
    val call = built("ai_score")(question, body)
    equal(template(call), "Answer with yes or no.\n\nIs this angry? {0}")
    equal(call.arguments, Seq(body))
    equal(call.options.task, Score("yes", "no"))
    equal(call.options.constraint, None)
    equal(call.dataType, DoubleType)
    equal(call.deterministic, true)
  }

  test("other choices, a name, a prompt and glue") {
    val german = built("ai_score")(question, body, named("choices", strings("ja", "nein")))
    equal(template(german), "Answer with ja or nein.\n\nIs this angry? {0}")
    equal(german.options.task, Score("ja", "nein"))
    equal(german.semanticEquals(built("ai_score")(question, body)), false)
    val plain = built("ai_score")(question, body)
    equal(built("ai_score")(Literal("Is this angry? {text}"), named("text", body)), plain)
    equal(built("ai_score")(Concat(Seq(Literal("Is this angry? "), body))).semanticEquals(plain), true)
    equal(built("ai_score")(question, body, named("choices", strings("yes", "no"))).semanticEquals(plain), true)
  }

  test("a score is not the completion of its prompt") {
    val score = built("ai_score")(question, body)
    val completion = score.copy(options = score.options.copy(task = Completion))
    equal(score.semanticEquals(completion), false)
    equal(score.describe.startsWith("ai_score('Answer with yes or no."), true)
    equal(score.describe.endsWith(s", $body, model => 'smollm2-135m', choices => array('yes', 'no'))"), true)
  }

  test("what is no pair of choices, and options for what is not generated") {
    Seq(strings("yes"), strings("yes", "yes"), strings("yes", ""), strings("a", "b", "c")).foreach { choices =>
      equal(condition("ai_score")(question, body, named("choices", choices)), "HELIUM_OPTION_OUT_OF_RANGE")
    }
    equal(condition("ai_score")(question, body, named("max_tokens", 3)), "HELIUM_UNKNOWN_OPTION")
    equal(condition("ai_score")(), "HELIUM_TEMPLATE_ARGUMENTS")
  }

  test("tasks travel to the executors") {
    Seq(Completion, Score("yes", "no"), Embedding, TokenCount).foreach { task =>
      val bytes = new ByteArrayOutputStream
      new ObjectOutputStream(bytes).writeObject(task)
      equal(new ObjectInputStream(new ByteArrayInputStream(bytes.toByteArray)).readObject(), task)
    }
  }
}
