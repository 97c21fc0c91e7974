package org.apache.spark.sql.helium.expressions.functions

import scala.util.Try

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.sql.catalyst.expressions.Expression
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.FunctionCatalog.{Function, Group}
import org.apache.spark.sql.types.StringType
import org.apache.spark.unsafe.types.UTF8String

/** Values out of a text. */
object Extraction {

  private val function = "ai_extract"

  val functions: Seq[Function] = Seq(
    Function(
      name = function,
      usage = "_FUNC_(content, schema[, instructions => '...']) - The fields of the schema, read from the content, as" +
        " a STRUCT. NULL content gives NULL.",
      arguments =
        s"""
    Arguments:
      * content - a text, a prompt(...), or anything that can be written as text.
      * schema - constant: a DDL string, a JSON schema of an object or of each field by its name, or names of fields, whose values are
          STRINGs: an array, map('name', 'question'), JSON text of either, or an array of struct('name', 'question'). A field is NULL
          where the text does not give it, unless the schema says NOT NULL; a COMMENT or description is shown to
          the model. Texts have at most ${ExtractionSchema.mostCharacters} characters, in arrays
          ${ExtractionSchema.mostInArrays}, and arrays at most ${ExtractionSchema.mostItems} elements, unless a JSON
          schema says maxLength or maxItems; numbers at most 15 digits and dates years from 1000 to 2999.
      * instructions - a constant text that says more about the fields.
${Prompts.typedOptionLines} max_tokens is by default
          what the longest answer can need.
  """,
      examples =
        """
    Examples:
      > SELECT _FUNC_('John Doe lives in New York and works for Acme Corp.',
                          array('person', 'location', 'organization')) AS found;
      > SELECT _FUNC_(body, 'stars INT COMMENT "from 1 to 5", is_angry BOOLEAN NOT NULL') AS found FROM reviews LIMIT 2;
      > SELECT _FUNC_(body, '{"type": "object", "properties": {"topics": {"type": "array",
                          "items": {"type": "string", "maxLength": 20}, "maxItems": 3}}}').topics
        FROM reviews LIMIT 2;
  """,
      group = Group.Extraction,
      builder = extract))

  private def extract(expressions: Seq[Expression]): Expression = {
    val arguments = new FunctionArguments(function, Seq(
      Parameter("content", aliases = Seq("text")),
      Parameter("schema", aliases = Seq("labels", "responseFormat")),
      Parameter("instructions", isRequired = false)), Prompts.optionsOfTyped, expressions)
    val schema = schemaOf(arguments)
    val missing = if (schema.fields.exists(_.nullable)) " A field that the text does not give is null." else ""
    val more = arguments.constants.string("instructions").fold("")("\n" + _)
    val (prompt, slots) = Prompts.about(function,
      s"Extract these fields from the text, as a JSON object.$missing\n${schema.listed}$more", arguments("content"))
    arguments.standingFor(LLMCallBuilder.call(function, prompt, slots, arguments.options,
      maxTokens = Some(Prompts.atLeastDefault(schema.mostTokens)),
      answer = Some(JsonSchema(schema.answer.jsonSchema) -> schema.answer.dataType)))
  }

  private def schemaOf(arguments: FunctionArguments): ExtractionSchema = {
    def names: ExtractionSchema = ExtractionSchema.of(Labels.read(arguments, "schema",
      "a DDL string such as 'name STRING, age INT', a JSON schema, or names of fields such as array('name', 'age')"))

    def parsed(text: String, schema: String): ExtractionSchema =
      try ExtractionSchema.parse(schema) catch {
        case AnswerSchema.Unsupported(reason) => throw HeliumErrors.answerSchema(function, text, reason)
      }

    arguments.constants.any("schema") match {
      case Some((value: UTF8String, _: StringType)) if !value.toString.trim.startsWith("[") =>
        val text = value.toString
        fieldsOf(text) match {
          case Some(fields) if fields.forall(_._2.isInstanceOf[JString]) => names
          case Some(fields) if fields.forall(_._2.isInstanceOf[JObject]) => parsed(text, schemaWith(fields))
          case _ => parsed(text, text)
        }
      case _ => names
    }
  }

  /** Words that make a JSON object a schema; without any its keys are names of fields. */
  private val schemaWords =
    Set("type", "properties", "$ref", "$schema", "$defs", "anyOf", "oneOf", "allOf", "enum", "const")

  /** A JSON object from names of fields to questions or schemas. */
  private def fieldsOf(text: String): Option[List[JField]] =
    if (!text.trim.startsWith("{")) None
    else Try(JsonMethods.parse(text)).toOption.collect {
      case JObject(fields) if fields.nonEmpty && !fields.exists(f => schemaWords(f._1)) => fields
    }

  private def schemaWith(fields: List[JField]): String =
    JsonMethods.compact(JObject(
      "type" -> JString("object"),
      "properties" -> JObject(fields),
      "required" -> JArray(fields.map(f => JString(f._1)))))
}
