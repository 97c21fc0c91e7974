package org.apache.spark.sql.helium.expressions

import java.util.Locale

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.sql.types._

/**
 * The schema of an extraction. Unlike the answer of a plain call, a field that may be NULL may be null in the
 * answer, and what the user left open has a bound, so that no answer goes on until it is cut off.
 *
 * @param answer the type, and a schema that allows nothing without a bound
 * @param mostTokens that an answer can have, where a token is one character at least
 */
case class ExtractionSchema(answer: AnswerSchema, mostTokens: Int) {

  def fields: Seq[StructField] = answer.dataType.asInstanceOf[StructType]

  /** A line per field, for the prompt. */
  def listed: String = fields.map { f =>
    s"- ${f.name} (${f.dataType.simpleString})${f.getComment().fold("")(": " + _)}"
  }.mkString("\n")
}

object ExtractionSchema {

  /** Characters of a text, and of one in an array. */
  val mostCharacters = 256
  val mostInArrays = 64

  /** Elements of an array, and entries of a map that the estimate counts with. */
  val mostItems = 32
  private val expectedEntries = 8

  /** The greatest number: engines then also bound its digits. */
  private val greatest = BigInt(10).pow(15)

  // Days that every year has, and 29 February of leap years. A schema's own "date" allows 30 February.
  private val date = "([12][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|" +
    "(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))|" +
    "[12][0-9](0[48]|[2468][048]|[13579][26])-02-29|(1[26]|2[048])00-02-29)"
  private val time = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"

  /**
   * @param text a DDL string, a JSON schema or Spark's JSON of a type
   * @throws AnswerSchema.Unsupported with a reason for the user
   */
  def parse(text: String): ExtractionSchema = bounded(AnswerSchema.parse(text, nulls = true))

  /** A text for each name, NULL where there is none; descriptions help the model. */
  def of(names: Seq[Label]): ExtractionSchema =
    bounded(AnswerSchema.of(StructType(names.map { label =>
      val field = StructField(label.name, StringType)
      label.description.fold(field)(field.withComment)
    }), nulls = true))

  private def bounded(answer: AnswerSchema): ExtractionSchema = {
    if (!answer.dataType.isInstanceOf[StructType]) {
      throw AnswerSchema.Unsupported("it has no named fields")
    }
    val names = answer.dataType.asInstanceOf[StructType].fieldNames.toSeq
    names.diff(names.distinctBy(_.toLowerCase(Locale.ROOT))).headOption.foreach { name =>
      throw AnswerSchema.Unsupported(s"a second field is named $name, and upper and lower case are one in SQL")
    }
    val schema = limited(JsonMethods.parse(answer.jsonSchema), mostCharacters)
    ExtractionSchema(
      answer.copy(jsonSchema = JsonMethods.compact(schema)),
      most(schema, schema).min(1 << 16).toInt)
  }

  /** Bounds for what has none. */
  private def limited(schema: JValue, characters: Int): JValue = schema match {
    case JObject(fields) => own(JObject(fields.map { case (key, value) =>
      key -> ((key, value) match {
        case ("properties" | "$defs" | "definitions", JObject(named)) =>
          JObject(named.map { case (name, s) => name -> limited(s, characters) })
        case ("anyOf" | "oneOf" | "allOf", JArray(all)) => JArray(all.map(limited(_, characters)))
        case ("items" | "additionalProperties", _: JObject) => limited(value, mostInArrays)
        case _ => value
      })
    }), characters)
    case other => other
  }

  private def own(schema: JObject, characters: Int): JObject = {
    def has(keys: String*): Boolean = keys.exists(k => (schema \ k) != JNothing)
    def plus(key: String, value: JValue): JObject = JObject(schema.obj :+ (key -> value))
    def instead(pattern: String): JObject =
      JObject(schema.obj.filterNot { case (key, _) => Set("format", "minLength", "maxLength")(key) } :+
        ("pattern" -> JString(s"^$pattern$$")))
    types(schema) match {
      case _ if has("enum", "const", "$ref") => schema
      case Seq("string") if (schema \ "format") == JString("date") => instead(date)
      case Seq("string") if (schema \ "format") == JString("date-time") => instead(s"${date}T${time}Z")
      case all if all.contains("string") && !has("pattern", "format", "maxLength") =>
        plus("maxLength", JInt(characters))
      case Seq("integer") if !has("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf") =>
        JObject(schema.obj ++ List("minimum" -> JInt(Long.MinValue), "maximum" -> JInt(Long.MaxValue)))
      case Seq("number") if !has("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf") =>
        JObject(schema.obj ++ List("minimum" -> JInt(-greatest), "maximum" -> JInt(greatest)))
      case Seq("array") if !has("maxItems") => plus("maxItems", JInt(mostItems))
      case _ => schema
    }
  }

  private def types(schema: JValue): Seq[String] = schema \ "type" match {
    case JString(name) => Seq(name)
    case JArray(names) => names.collect { case JString(name) if name != "null" => name }
    case _ => Nil
  }

  /** Characters of the longest answer. */
  private def most(schema: JValue, root: JValue): Long = {
    def all(of: JValue): Seq[Long] = of match {
      case JArray(schemas) => schemas.map(most(_, root))
      case _ => Nil
    }
    def number(key: String, default: Long): Long = schema \ key match {
      case JInt(n) => n.min(1 << 16).toLong
      case _ => default
    }
    val alternatives = Seq("anyOf", "oneOf", "allOf").flatMap(k => all(schema \ k))
    val constants = (schema \ "enum" match {
      case JArray(values) => values
      case _ => Nil
    }) ++ Option(schema \ "const").filter(_ != JNothing)
    (schema \ "$ref", types(schema).headOption) match {
      // Recursive schemas have no SQL type and do not come here.
      case (JString(ref), _) => most(ref.drop(2).split('/').foldLeft(root)(_ \ _), root)
      case _ if alternatives.nonEmpty => alternatives.max
      case _ if constants.nonEmpty => constants.map(JsonMethods.compact(_).length.toLong).max
      case (_, Some("string")) => number("maxLength", mostCharacters) + 2
      case (_, Some("integer" | "number")) => 24L
      case (_, Some("array")) => 2 + number("maxItems", mostItems) * (most(schema \ "items", root) + 2)
      case (_, Some("object")) => schema \ "properties" match {
        case JObject(fields) if fields.nonEmpty =>
          2 + fields.map { case (name, s) => name.length + 6 + most(s, root) }.sum
        case _ => 2 + expectedEntries * (mostInArrays + 6 + most(schema \ "additionalProperties", root))
      }
      case _ => 6L
    }
  }
}
