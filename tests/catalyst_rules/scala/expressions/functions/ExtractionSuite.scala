package org.apache.spark.sql.helium.expressions.functions

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.testing.FunctionSuite
import org.apache.spark.sql.types._

class ExtractionSuite extends FunctionSuite {

  private val names = new StructType().add("person", StringType).add("place", StringType)

  test("names are texts that may be NULL") {
    val call = built("ai_extract")(body, strings("person", "place"))
    equal(call.dataType, names)
    equal(schema(call), """{"type":"object","properties":{""" +
      """"person":{"anyOf":[{"type":"string","maxLength":256},{"type":"null"}]},""" +
      """"place":{"anyOf":[{"type":"string","maxLength":256},{"type":"null"}]}},""" +
      """"required":["person","place"],"additionalProperties":false}""")
    equal(template(call), "Extract these fields from the text, as a JSON object. A field that the text does not give" +
      " is null.\n- person (string)\n- place (string)\n\nText: {0}")
    equal(built("ai_extract")(body, Literal("""["person", "place"]""")), call)
  }

  test("questions and instructions are shown to the model") {
    val map = CreateMap(Seq(Literal("person"), Literal("Who is it?")))
    equal(template(built("ai_extract")(body, map, named("instructions", "Names have a title."))),
      "Extract these fields from the text, as a JSON object. A field that the text does not give is null.\n" +
        "- person (string): Who is it?\nNames have a title.\n\nText: {0}")
  }

  test("a DDL string, with comments and NOT NULL") {
    val ddl = "stars INT NOT NULL COMMENT 'from 1 to 5', ok BOOLEAN NOT NULL"
    val call = built("ai_extract")(body, Literal(ddl))
    equal(call.dataType, StructType.fromDDL(ddl))
    equal(template(call), "Extract these fields from the text, as a JSON object.\n- stars (int): from 1 to 5\n" +
      "- ok (boolean)\n\nText: {0}")
    equal(built("ai_extract")(body, Literal(s"STRUCT<a: INT>")).dataType, new StructType().add("a", IntegerType))
  }

  test("there is room for the longest answer") {
    def room(schema: String) = built("ai_extract")(body, Literal(schema)).options.sampling.maxTokens
    equal(room("a BOOLEAN"), 256, "the session's default where that is more")
    equal(room("a STRING, b STRING") >= 2 * 256, true)
    equal(room("a ARRAY<STRING>") >= 32 * 64, true)
    equal(built("ai_extract")(body, Literal("a STRING"), named("max_tokens", 7)).options.sampling.maxTokens, 7)
  }

  test("schemas that cannot be") {
    def wrong(value: Expression) = condition("ai_extract")(body, value)
    equal(wrong(Literal("a FOO")), "HELIUM_ANSWER_SCHEMA")
    equal(wrong(Literal("ARRAY<INT>")), "HELIUM_ANSWER_SCHEMA")
    equal(wrong(Literal("""{"type": "array", "items": {"type": "string"}}""")), "HELIUM_ANSWER_SCHEMA")
    equal(wrong(Literal("""{"type": "object"}""")), "HELIUM_ANSWER_SCHEMA")
    equal(wrong(title), "HELIUM_OPTION_NOT_CONSTANT")
    equal(wrong(strings()), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(wrong(strings("a", "a")), "HELIUM_OPTION_OUT_OF_RANGE")
    equal(wrong(Literal(1)), "HELIUM_OPTION_TYPE")
    equal(condition("ai_extract")(body), "HELIUM_ARGUMENTS")
  }
}
