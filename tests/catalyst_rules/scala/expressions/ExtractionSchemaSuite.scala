package org.apache.spark.sql.helium.expressions

import org.apache.spark.sql.helium.testing.HeliumSuite
import org.apache.spark.sql.types._

class ExtractionSchemaSuite extends HeliumSuite {

  private def json(fields: String): String = s"""{"type":"object","properties":{$fields}}"""

  private def bounded(field: String): String = ExtractionSchema.parse(json(s""""a":$field""")).answer.jsonSchema

  test("what is left open gets a bound") {
    equal(bounded("""{"type":"string"}"""), json(""""a":{"type":"string","maxLength":256}"""))
    equal(bounded("""{"type":"integer"}"""),
      json(""""a":{"type":"integer","minimum":-9223372036854775808,"maximum":9223372036854775807}"""))
    equal(bounded("""{"type":"number"}"""),
      json(""""a":{"type":"number","minimum":-1000000000000000,"maximum":1000000000000000}"""))
    equal(bounded("""{"type":"array","items":{"type":"string"}}"""),
      json(""""a":{"type":"array","items":{"type":"string","maxLength":64},"maxItems":32}"""))
    equal(bounded("""{"type":["string","null"]}"""), json(""""a":{"type":["string","null"],"maxLength":256}"""))
  }

  test("decimals are bounded by their type, as far as engines bound digits") {
    def decimal(sql: String): String = ExtractionSchema.parse(s"a $sql NOT NULL").answer.jsonSchema
    def of(bound: String, most: String): String =
      json(s""""a":{"type":"$bound","minimum":-$most,"maximum":$most}""") // required and additionalProperties follow
        .dropRight(1)
    assert(decimal("DECIMAL(4,2)").startsWith(of("number", "99.99")), decimal("DECIMAL(4,2)"))
    assert(decimal("DECIMAL(2,2)").startsWith(of("number", "0.99")), decimal("DECIMAL(2,2)"))
    assert(decimal("DECIMAL(12,9)").startsWith(of("number", "999.999999")), decimal("DECIMAL(12,9)"))
    assert(decimal("DECIMAL(3,0)").startsWith(of("integer", "999")), decimal("DECIMAL(3,0)"))
    assert(decimal("DECIMAL(38,0)").startsWith(of("integer", "999999999999999999")), decimal("DECIMAL(38,0)"))
  }

  test("names that SQL cannot tell apart are refused") {
    val refused = intercept[AnswerSchema.Unsupported](ExtractionSchema.parse("a INT, A STRING"))
    assert(refused.reason.contains("a second field is named A"), refused.reason)
  }

  test("what has a bound keeps it") {
    Seq("""{"type":"string","maxLength":3}""", """{"type":"string","enum":["x"]}""",
      """{"type":"string","pattern":"^a$"}""", """{"type":"integer","minimum":3}""",
      """{"type":"array","items":{"type":"boolean"},"maxItems":2}""").foreach { field =>
      equal(bounded(field), json(s""""a":$field"""))
    }
  }

  test("a date is a day that there is") {
    val schema = ExtractionSchema.parse("d DATE NOT NULL").answer.jsonSchema
    val pattern = "\"pattern\":\"([^\"]*)\"".r.findFirstMatchIn(schema).get.group(1)
    Seq("2024-02-29", "2000-02-29", "1776-07-04", "2023-12-31", "2023-04-30").foreach { day =>
      equal(day.matches(pattern), true, day)
      java.time.LocalDate.parse(day)
    }
    Seq("2023-02-29", "1900-02-29", "2023-04-31", "2023-13-01", "2023-1-1").foreach(
      day => equal(day.matches(pattern), false, day))
  }

  test("definitions are bounded where they stand") {
    val schema = """{"type":"object","properties":{"a":{"$ref":"#/$defs/T"}},"$defs":{"T":{"type":"string"}}}"""
    val read = ExtractionSchema.parse(schema)
    equal(read.answer.jsonSchema.contains(""""$defs":{"T":{"type":"string","maxLength":256}}"""), true)
    equal(read.answer.dataType, new StructType().add("a", StringType))
    equal(read.mostTokens >= 258, true)
  }

  test("the longest answer") {
    equal(ExtractionSchema.parse("a BOOLEAN NOT NULL").mostTokens, 2 + 1 + 6 + 6)
    val nested = ExtractionSchema.parse("a ARRAY<STRUCT<b: STRING NOT NULL>> NOT NULL").mostTokens
    equal(nested >= 32 * 64, true)
  }

  test("nothing but a struct") {
    Seq("INT", "ARRAY<STRING>", "MAP<STRING, INT>").foreach { ddl =>
      intercept[AnswerSchema.Unsupported](ExtractionSchema.parse(ddl))
    }
  }
}
