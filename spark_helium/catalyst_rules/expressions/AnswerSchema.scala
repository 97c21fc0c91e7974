package org.apache.spark.sql.helium.expressions

import scala.util.control.NonFatal

import org.json4s._
import org.json4s.jackson.JsonMethods

import org.apache.spark.sql.types._

/**
 * Reads a `response_schema`: a DDL string, a JSON schema, or Spark's JSON of a type. Both give an SQL type for the answer
 * and a JSON schema for guided decoding.
 */
case class AnswerSchema(dataType: DataType, jsonSchema: String)

object AnswerSchema {

  case class Unsupported(reason: String) extends Exception(reason)

  /**
   * @param nulls whether a field of a DDL string that may be NULL may be null in the answer, too
   * @throws Unsupported with a reason for the user
   */
  def parse(text: String, nulls: Boolean = false): AnswerSchema = {
    val schema = read(text, nulls)
    if (schema.dataType == StringType) {
      throw Unsupported("the answer would be a text in the quotes of JSON; leave the option out, or " +
        "say choices or regex")
    }
    schema
  }

  /** @throws Unsupported with a reason for the user */
  def of(dataType: DataType, nulls: Boolean = false): AnswerSchema =
    AnswerSchema(dataType, JsonMethods.compact(toJsonSchema(dataType, "the answer", nulls)))

  private def read(text: String, nulls: Boolean): AnswerSchema = {
    if (text.trim.startsWith("{")) {
      val schema = try JsonMethods.parse(text) catch {
        case NonFatal(e) =>
          throw Unsupported(s"it is not JSON (${firstLine(e)})")
      }
      if (isSparkType(schema)) {
        of(DataType.fromJson(text), nulls)
      } else {
        AnswerSchema(new JsonSchemaReader(schema).read(), JsonMethods.compact(schema))
      }
    } else {
      val dataType = try DataType.fromDDL(text) catch {
        case NonFatal(e) => throw Unsupported(s"it is not a DDL string (${firstLine(e)})")
      }
      of(dataType, nulls)
    }
  }

  /** Spark's own JSON form of a type, which the Python API sends for a StructType. */
  private def isSparkType(schema: JValue): Boolean = schema \ "type" match {
    case JString("struct") => (schema \ "fields").isInstanceOf[JArray]
    case JString("array") => (schema \ "elementType") != JNothing
    case JString("map") => (schema \ "keyType") != JNothing
    case _ => false
  }

  private def firstLine(e: Throwable): String =
    Option(e.getMessage).getOrElse(e.toString).linesIterator.find(_.trim.nonEmpty)
      .getOrElse("").trim.take(160)

  private def toJsonSchema(
      dataType: DataType, place: String, nulls: Boolean): JObject = dataType match {
    case StringType => typed("string")
    case BooleanType => typed("boolean")
    case ByteType => integer(Byte.MinValue, Byte.MaxValue)
    case ShortType => integer(Short.MinValue, Short.MaxValue)
    case IntegerType => integer(Int.MinValue, Int.MaxValue)
    case LongType => typed("integer")
    case FloatType | DoubleType => typed("number")
    case decimal: DecimalType if decimal.scale == 0 =>
      val most = greatest(decimal).toBigInt
      typed("integer", "minimum" -> JInt(-most), "maximum" -> JInt(most))
    case decimal: DecimalType =>
      val most = greatest(decimal)
      typed("number", "minimum" -> JDecimal(-most), "maximum" -> JDecimal(most))
    case DateType => typed("string", "format" -> JString("date"))
    case TimestampType => typed("string", "format" -> JString("date-time"))
    case TimestampNTZType =>
      // A date-time of JSON schema has a time zone.
      typed("string", "pattern" -> JString(
        "^[12][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3])(:[0-5][0-9]){2}$"))
    case ArrayType(element, _) =>
      typed("array", "items" -> toJsonSchema(element, s"the items of $place", nulls))
    case MapType(StringType, value, _) =>
      typed("object", "additionalProperties" -> toJsonSchema(value, s"the values of $place", nulls))
    case struct: StructType =>
      if (struct.isEmpty) throw Unsupported(s"$place has no fields")
      val properties = struct.fields.toList.map { f =>
        val value = toJsonSchema(f.dataType, s"field ${f.name}", nulls)
        val schema = if (nulls && f.nullable) JObject("anyOf" -> JArray(List(value, typed("null")))) else value
        f.name -> f.getComment().fold(schema)(c => schema ~~ ("description" -> JString(c)))
      }
      typed("object",
        "properties" -> JObject(properties),
        "required" -> JArray(struct.fieldNames.toList.map(JString(_))),
        "additionalProperties" -> JBool(false))
    case other => throw Unsupported(s"$place has the type ${other.sql}, which no JSON value has")
  }

  private implicit class Extended(val schema: JObject) extends AnyVal {
    def ~~(field: (String, JValue)): JObject = JObject(schema.obj :+ field)
  }

  private def typed(name: String, more: (String, JValue)*): JObject =
    JObject(("type" -> JString(name)) :: more.toList)

  private def integer(min: Long, max: Long): JObject =
    typed("integer", "minimum" -> JInt(min), "maximum" -> JInt(max))

  /** The greatest value of a decimal type, or the greatest below it whose digits engines can bound. */
  private def greatest(decimal: DecimalType): BigDecimal = {
    val (places, most) = if (decimal.scale == 0) (0, 18) else (decimal.scale.min(6), 15)
    val digits = (decimal.precision - decimal.scale).min(most - places)
    BigDecimal(10).pow(digits) - BigDecimal(BigInt(1), places)
  }

  /** SQL types of a JSON schema. Local `$ref`s are followed; a recursive one has no SQL type. */
  private class JsonSchemaReader(root: JValue) {

    def read(): DataType = read(root, "the answer", Nil)

    private def read(schema: JValue, place: String, seen: List[String]): DataType = {
      val union = Seq("anyOf", "oneOf").map(schema \ _).collectFirst { case JArray(s) => s }
      (schema \ "$ref", union, schema \ "type") match {
        case (JString(ref), _, _) => read(resolve(ref, place, seen), place, ref :: seen)
        case (_, Some(options), _) =>
          options.filterNot(_ \ "type" == JString("null"))
            .map(read(_, place, seen)).distinct match {
              case Seq(one) => one
              case many => throw Unsupported(
                s"$place may have ${many.size} types, and an SQL type has one")
            }
        case (_, _, JArray(types)) =>
          types.filterNot(_ == JString("null")) match {
            case List(JString(one)) => typed(one, schema, place, seen)
            case many => throw Unsupported(
              s"$place may have ${many.size} types, and an SQL type has one")
          }
        case (_, _, JString(name)) => typed(name, schema, place, seen)
        case _ => schema \ "enum" match {
          case JArray(values) if values.nonEmpty && values.forall(_.isInstanceOf[JString]) =>
            StringType
          case _ => schema \ "const" match {
            case JString(_) => StringType
            case _ => throw Unsupported(s"$place has no type")
          }
        }
      }
    }

    private def typed(
        name: String, schema: JValue, place: String, seen: List[String]): DataType = name match {
      case "string" => schema \ "format" match {
        case JString("date") => DateType
        case JString("date-time") => TimestampType
        case _ => StringType
      }
      case "integer" => LongType
      case "number" => DoubleType
      case "boolean" => BooleanType
      case "array" => schema \ "items" match {
        case items: JObject => ArrayType(read(items, s"the items of $place", seen))
        case _ => throw Unsupported(s"$place is an array without items")
      }
      case "object" => (schema \ "properties", schema \ "additionalProperties") match {
        case (JObject(fields), _) if fields.nonEmpty =>
          StructType(fields.map { case (field, fieldSchema) =>
            val struct = StructField(field, read(fieldSchema, s"field $field", seen))
            fieldSchema \ "description" match {
              case JString(comment) => struct.withComment(comment)
              case _ => struct
            }
          })
        case (_, values: JObject) =>
          MapType(StringType, read(values, s"the values of $place", seen))
        case _ => throw Unsupported(s"$place is an object without properties")
      }
      case other => throw Unsupported(s"$place has the type $other, which SQL does not have")
    }

    private def resolve(ref: String, place: String, seen: List[String]): JValue = {
      if (seen.contains(ref)) throw Unsupported(s"$place refers to itself through $ref")
      if (!ref.startsWith("#/")) throw Unsupported(s"$place refers to $ref outside the schema")
      ref.drop(2).split('/').foldLeft(root)(_ \ _) match {
        case JNothing => throw Unsupported(s"$place refers to $ref, which is not there")
        case found => found
      }
    }
  }
}
