package org.apache.spark.sql.helium.expressions.functions

import scala.util.Try
import scala.util.control.NonFatal

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.sql.catalyst.expressions.{Alias, CreateNamedStruct, Expression, GetStructField, Literal}
import org.apache.spark.sql.catalyst.util.toPrettySQL
import org.apache.spark.sql.helium.HeliumErrors
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.FunctionCatalog.{Function, Group}
import org.apache.spark.sql.types._

/** Questions without a form of their own, in the spellings of several products. */
object Queries {

  private val prompts =
    """a string, a prompt(...), or an ARRAY<STRUCT<role, content>> for a
          conversation; what stands in it literally, or is put together with ||, is a visible template."""

  val functions: Seq[Function] = Seq(
    Function(
      name = "ai_query",
      usage = "_FUNC_(endpoint, request[, returnType, failOnError, modelParameters, responseFormat]) - Answer" +
        " of a model to a prompt. NULL in a prompt gives NULL.",
      arguments =
        s"""
    Arguments:
      * endpoint - the model: a built-in name, a path or a hub name. Also named model; NULL for spark.helium.model.
      * request - $prompts
      * returnType - a DDL string: the type of the answer, which guided decoding enforces. Default STRING.
      * failOnError - true (default) ends the query at the first failed row; false returns
          STRUCT<response, errorMessage>.
      * modelParameters - named_struct('max_tokens', 100, 'temperature', 0.7) with any option of llm() that says
          how answers are generated.
      * responseFormat - the form of an answer that stays a STRING of JSON: a DDL string STRUCT<...> (of a struct
          with one field that is a struct, the inner one), a JSON schema, or
          {"type": "json_schema", "json_schema": {"schema": ...}}, {"type": "json_object"}, {"type": "text"}.
${Prompts.optionLines}
  """,
      examples =
        """
    Examples:
      > SELECT _FUNC_('smollm2-135m', 'Describe this review in three words: ' || body) FROM reviews LIMIT 2;
      > SELECT _FUNC_('smollm2-135m', prompt('How many stars does this review give? {0}', body),
                        returnType => 'STRUCT<stars: INT>') AS rating
        FROM reviews LIMIT 2;
      > SELECT _FUNC_('smollm2-135m', 'Name a color', failOnError => false,
                        modelParameters => named_struct('max_tokens', 10, 'temperature', 0.7)) AS answer;
      > SELECT _FUNC_('smollm2-135m', 'Invent a product',
                        responseFormat => 'STRUCT<product: STRUCT<name: STRING, price: DECIMAL(6, 2)>>') AS json;
  """,
      group = Group.Queries,
      builder = query("ai_query", Seq(
        Parameter("endpoint", aliases = Seq("model")), Parameter("request", aliases = Seq("prompt")),
        Parameter("returnType", isRequired = false), Parameter("failOnError", isRequired = false),
        Parameter("modelParameters", isRequired = false), Parameter("responseFormat", isRequired = false)))),
    Function(
      name = "ai_complete",
      usage = "_FUNC_(model, prompt[, model_parameters, response_format]) - Answer of a model to a prompt, as" +
        " ai_query() with the arguments in another order. NULL in a prompt gives NULL.",
      arguments =
        s"""
    Arguments:
      * model - a built-in name, a path or a hub name; NULL for spark.helium.model.
      * prompt - $prompts
      * model_parameters - as modelParameters of ai_query().
      * response_format - as responseFormat of ai_query().
${Prompts.optionLines}
  """,
      examples =
        """
    Examples:
      > SELECT _FUNC_('smollm2-135m', concat('Critique this review in bullet points: ', body)) FROM reviews LIMIT 2;
      > SELECT _FUNC_(model => 'smollm2-135m', prompt => prompt('Shorten: {0}', body),
                        model_parameters => named_struct('max_tokens', 20)) AS short FROM reviews LIMIT 2;
  """,
      group = Group.Queries,
      builder = query("ai_complete", Seq(
        Parameter("model"), Parameter("prompt"),
        Parameter("modelParameters", isRequired = false), Parameter("responseFormat", isRequired = false)))),
    Function(
      name = "ai_gen",
      usage = "_FUNC_(prompt) - Answer of the default model to a prompt. NULL gives NULL.",
      arguments =
        s"""
    Arguments:
      * prompt - $prompts
${Prompts.optionLines}
  """,
      examples =
        """
    Examples:
      > SELECT _FUNC_('Write a cheerful title for a sale of bicycles with a discount of 20%');
      > SELECT _FUNC_('Thank the customer for this review: ' || body, max_tokens => 40) FROM reviews LIMIT 2;
  """,
      group = Group.Queries,
      builder = query("ai_gen", Seq(Parameter("prompt")))))

  private def query(function: String, parameters: Seq[Parameter])(
      expressions: Seq[Expression]): Expression = {
    val arguments = new FunctionArguments(function, parameters, Prompts.options, expressions)
    val prompt = arguments(parameters.find(p => Set("request", "prompt")(p.name)).get.name)
    val options = Seq("endpoint", "model").flatMap(arguments.get).map("model" -> _) ++
      arguments.get("failOnError").map("failOnError" -> _) ++
      arguments.get("modelParameters").toSeq.flatMap(modelParameters(function, _)) ++ arguments.options
    options.groupBy { case (name, _) => OptionReader.normalize(name) }
      .collectFirst { case (_, several) if several.size > 1 => several.map(_._1) }
      .foreach(names => throw HeliumErrors.conflictingOptions(function, names.map(n => s"the option $n")))
    val (spec, slots) = Prompts.whole(function, prompt)
    arguments.standingFor(
      LLMCallBuilder.call(function, spec, slots, options, answer = answer(arguments)))
  }

  /** Fields of a struct as options. */
  private def modelParameters(function: String, record: Expression): Seq[(String, Expression)] = {
    val named = record match {
      case Alias(child, _) => return modelParameters(function, child)
      case Literal(null, _) => Nil
      case s: CreateNamedStruct => s.names.map(String.valueOf).zip(s.valExprs)
      case other => other.dataType match {
        case StructType(fields) => fields.toSeq.zipWithIndex.map { case (f, i) =>
          f.name -> GetStructField(other, i, Some(f.name))
        }
        case _ => throw HeliumErrors.optionType(function, "modelParameters", toPrettySQL(other),
          other.dataType, "a struct, such as named_struct('max_tokens', 100)")
      }
    }
    val known = Prompts.options.filterNot(Set("model", "system", "failOnError"))
    named.foreach { case (name, _) =>
      if (!known.exists(o => OptionReader.normalize(o) == OptionReader.normalize(name))) {
        throw HeliumErrors.unknownOption(function, name, known)
      }
    }
    named
  }

  private def answer(arguments: FunctionArguments): Option[(AnswerConstraint, DataType)] = {
    val function = arguments.function
    def schema(text: String)(read: => Option[(AnswerConstraint, DataType)]) = try read catch {
      case AnswerSchema.Unsupported(reason) => throw HeliumErrors.answerSchema(function, text, reason)
    }
    val returned = arguments.constants.string("returnType").flatMap { text =>
      schema(text) {
        if (isString(text)) None
        else Some(AnswerSchema.parse(text)).map(s => JsonSchema(s.jsonSchema) -> s.dataType)
      }
    }
    val formatted = arguments.constants.string("responseFormat").flatMap { text =>
      schema(text)(responseFormat(text).map(JsonSchema(_) -> StringType))
    }
    if (returned.isDefined && formatted.isDefined) {
      throw HeliumErrors.conflictingOptions(function, Seq("returnType", "responseFormat"))
    }
    returned.orElse(formatted)
  }

  private def isString(ddl: String): Boolean = Try(DataType.fromDDL(ddl)).toOption.contains(StringType)

  /** The JSON schema of a response format; None for text. */
  private def responseFormat(text: String): Option[String] = {
    if (!text.trim.startsWith("{")) {
      Try(DataType.fromDDL(text)).toOption match {
        case Some(StringType) => None
        case Some(StructType(Array(StructField(_, inner: StructType, _, _)))) =>
          Some(AnswerSchema.of(inner).jsonSchema)
        case _ => Some(AnswerSchema.parse(text).jsonSchema)
      }
    } else {
      val json = try JsonMethods.parse(text) catch {
        case NonFatal(e) => throw AnswerSchema.Unsupported(s"it is not JSON (${e.getMessage.linesIterator.next()})")
      }
      def found(schema: JValue): String = schema match {
        case o: JObject => JsonMethods.compact(o)
        case _ => throw AnswerSchema.Unsupported("there is no schema in it")
      }
      (json \ "type", json \ "json_schema") match {
        case (JString("text"), _) => None
        case (JString("json_object"), _) => Some("""{"type":"object"}""")
        case (JString("json_schema"), wrapped) => Some(found(wrapped \ "schema"))
        case (JString("json"), _) => Some(found(json \ "schema"))
        case _ => Some(found(json))
      }
    }
  }
}
