package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.catalyst.expressions.{And, Expression, GetStructField, If, IsNotNull, Literal, VectorCosineSimilarity}
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.FunctionCatalog.{Function, Group}
import org.apache.spark.sql.types.{ArrayType, DataType, FloatType, IntegerType}

/** Texts as the vectors and the tokens that a model sees. */
object Embeddings {

  private val contentLine = "      * content - a text, or anything that can be written as text."

  private val optionLines =
    """      * model - constant: a built-in name, a path or a hub name; default spark.helium.model.
      * failOnError - as that of llm(), by name."""

  val functions: Seq[Function] = Seq(
    Function(
      name = "ai_embed",
      usage = "_FUNC_(content[, model]) - The vector that the model's pooling gives for the content, of length 1: an" +
        " ARRAY<FLOAT>. NULL gives NULL.",
      arguments =
        s"""
    Arguments:
$contentLine It is embedded as it is, without a prompt; an
          empty text is an error.
$optionLines
  """,
      examples =
        """
    Examples:
      > SELECT review_id, _FUNC_(body) AS vector FROM reviews LIMIT 3;
      > SELECT size(_FUNC_('a text'));
  """,
      group = Group.Scores,
      builder = embed),
    Function(
      name = "ai_similarity",
      usage = "_FUNC_(first, second[, model]) - How similar two texts are: the cosine of their ai_embed() vectors, a" +
        " FLOAT from -1 to 1. NULL gives NULL.",
      arguments =
        s"""
    Arguments:
      * first, second - texts, or anything that can be written as text. A text that stands in several rows
          or calls is embedded once.
      * model - constant: a built-in name, a path or a hub name; default spark.helium.model.
      * failOnError - true (default) ends the query at the first text that cannot be embedded; false gives NULL for it.
  """,
      examples =
        """
    Examples:
      > SELECT product, body FROM reviews ORDER BY _FUNC_(body, 'too heavy to carry') DESC LIMIT 3;
      > SELECT _FUNC_('a small dog', 'a puppy') > _FUNC_('a small dog', 'the stock market');
  """,
      group = Group.Scores,
      builder = similarity),
    Function(
      name = "ai_count_tokens",
      usage = "_FUNC_(content[, model]) - How many tokens the model's tokenizer makes of the content: an INT. No model" +
        " is called. NULL gives NULL.",
      arguments =
        s"""
    Arguments:
$contentLine What a chat template would set around it is not counted.
$optionLines
  """,
      examples =
        """
    Examples:
      > SELECT sum(_FUNC_(body)) FROM reviews;
      > SELECT _FUNC_('How long is this?', 'smollm2-135m');
  """,
      group = Group.Scores,
      builder = countTokens))

  private val model = Parameter("model", isRequired = false)

  private val content = Parameter("content", aliases = Seq("text", "input"))

  private val options = Seq("failOnError")

  private def embed(expressions: Seq[Expression]): Expression = {
    val arguments = new FunctionArguments("ai_embed", Seq(content, model), options, expressions)
    arguments.standingFor(vector(arguments, content, 1))
  }

  private def similarity(expressions: Seq[Expression]): Expression = {
    val sides = Seq(Parameter("first", aliases = Seq("expr1", "input1")),
      Parameter("second", aliases = Seq("expr2", "input2")))
    val arguments = new FunctionArguments("ai_similarity", sides :+ model, options, expressions)
    val vectors = sides.zipWithIndex.map { case (side, i) =>
      val call = vector(arguments, side, i + 1)
      if (call.options.failOnError) call else GetStructField(call, 0, Some("response"))
    }
    // Without its other side a text need not be embedded.
    val similarity = VectorCosineSimilarity(vectors.head, vectors.last)
    val known = sides.map(side => arguments(side.name)).filter(_.nullable).map(IsNotNull(_): Expression)
    arguments.standingFor(known.reduceOption(And(_, _)).fold[Expression](similarity)(
      If(_, similarity, Literal(null, FloatType))))
  }

  private def countTokens(expressions: Seq[Expression]): Expression = {
    val arguments = new FunctionArguments("ai_count_tokens", Seq(content, model), options, expressions)
    arguments.standingFor(of(arguments, content, 1, TokenCount, IntegerType))
  }

  private def vector(arguments: FunctionArguments, side: Parameter, position: Int): LLMCall =
    of(arguments, side, position, Embedding, ArrayType(FloatType, containsNull = false))

  /** A call over a bare text, for which no token is generated. */
  private def of(
      arguments: FunctionArguments,
      parameter: Parameter,
      position: Int,
      task: CallTask,
      answerType: DataType): LLMCall = {
    val (prompt, slots) = Prompts.user(Seq(Slot(0)),
      Seq(LLMCallBuilder.text(arguments.function, arguments(parameter.name), position)))
    val call = LLMCallBuilder.call(arguments.function, prompt, slots,
      arguments.options ++ arguments.get(model.name).map(model.name -> _), maxTokens = Some(0))
    call.copy(options = call.options.copy(task = task), answerType = answerType)
  }
}
