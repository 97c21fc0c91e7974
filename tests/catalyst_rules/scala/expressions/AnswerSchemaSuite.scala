package org.apache.spark.sql.helium.expressions

import org.apache.spark.sql.helium.testing.HeliumSuite
import org.apache.spark.sql.types._

class AnswerSchemaSuite extends HeliumSuite {

  private def reason(schema: String): String =
    intercept[AnswerSchema.Unsupported](AnswerSchema.parse(schema)).reason

  test("DDL gives its type and a JSON schema with every field required") {
    val schema = AnswerSchema.parse("name STRING COMMENT 'full name', age INT")
    equal(schema.dataType, new StructType()
      .add("name", StringType, nullable = true, "full name").add("age", IntegerType))
    equal(schema.jsonSchema,
      """{"type":"object","properties":{"name":{"type":"string","description":"full name"},""" +
      """"age":{"type":"integer","minimum":-2147483648,"maximum":2147483647}},""" +
      """"required":["name","age"],"additionalProperties":false}""")
  }

  test("nested DDL") {
    equal(AnswerSchema.parse("STRUCT<tags: ARRAY<STRING>, at: DATE>").jsonSchema,
      """{"type":"object","properties":{"tags":{"type":"array","items":{"type":"string"}},""" +
      """"at":{"type":"string","format":"date"}},"required":["tags","at"],""" +
      """"additionalProperties":false}""")
    equal(AnswerSchema.parse("array<double>").dataType, ArrayType(DoubleType))
  }

  test("a JSON schema gives an SQL type") {
    equal(AnswerSchema.parse(
      """{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type":
        ["string", "null"]}, "c": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "d": {"enum": ["x", "y"]}, "e": {"$ref": "#/$defs/E"}},
        "$defs": {"E": {"type": "array", "items": {"type": "boolean"}}}}""").dataType,
      new StructType().add("a", LongType).add("b", StringType).add("c", DoubleType)
        .add("d", StringType).add("e", ArrayType(BooleanType)))
  }

  test("what cannot be typed is refused with a reason") {
    equal(reason("a FOO").startsWith("it is not a DDL string"), true)
    equal(reason("{\"type\": ").startsWith("it is not JSON"), true)
    equal(reason("a BINARY"), "field a has the type BINARY, which no JSON value has")
    equal(reason("""{"type": "object"}"""), "the answer is an object without properties")
    equal(reason("""{"type": ["string", "integer"]}"""),
      "the answer may have 2 types, and an SQL type has one")
    equal(reason("""{"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}"""),
      "the answer refers to itself through #/$defs/x")
    Seq("STRING", "{\"type\": \"string\", \"maxLength\": 3}", "{\"enum\": [\"x\", \"y\"]}").foreach { text =>
      equal(reason(text), "the answer would be a text in the quotes of JSON; leave the option out, " +
        "or say choices or regex")
    }
  }
}
