package org.apache.spark.sql.helium.expressions

import java.sql.{Date, Timestamp}

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.helium.testing.HeliumSuite
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.types.UTF8String

class JsonRecordSuite extends HeliumSuite {

  private val zone = Some("Asia/Tokyo")

  private def record(items: (String, Expression)*): JsonRecord =
    JsonRecord(items).withTimeZone(zone.get)

  private def text(e: Expression): String = e.eval(InternalRow.empty).toString

  /** What Spark's own to_json writes. */
  private def toJson(items: (String, Expression)*): String = text(StructsToJson(
    Map("ignoreNullFields" -> "false"),
    CreateNamedStruct(items.flatMap { case (name, value) => Seq(Literal(name), value) }), zone).replacement)

  private val values: Seq[(String, Expression)] = Seq(
    "text" -> Literal("a \"b\" \\ \n\r\t\b\f \u0001 \u007f \u2028 ä 😀 </script>"),
    "empty" -> Literal(""),
    "a \"name\"" -> Literal(1),
    "flag" -> Literal(false),
    "long" -> Literal(Long.MinValue),
    "double" -> Literal(1.0e-9),
    "nan" -> Literal(Double.NaN),
    "decimal" -> Literal(Decimal("12345678901234567890.10"), DecimalType(38, 2)),
    "day" -> Literal(Date.valueOf("2024-02-29")),
    "time" -> Literal(Timestamp.valueOf("2024-02-29 12:34:56.789")),
    "bytes" -> Literal(Array[Byte](1, 2, 3)),
    "list" -> CreateArray(Seq(Literal("x\"y"), Literal(null, StringType))),
    "map" -> CreateMap(Seq(Literal("k"), Literal(1.5))),
    "inner" -> CreateNamedStruct(Seq(Literal("a"), Literal(1), Literal("b"), Literal(null, IntegerType))),
    "nothing" -> Literal(null, StringType),
    "void" -> Literal(null, NullType))

  test("each value, and all of them, as to_json writes them") {
    values.foreach(item => equal(text(record(item)), toJson(item), item._1))
    equal(text(record(values: _*)), toJson(values: _*))
  }

  test("a record is never NULL, and one without fields is an object") {
    val nulls = record("a" -> Literal(null, StringType), "b" -> Literal(null, IntegerType))
    equal(nulls.nullable, false)
    equal(text(nulls), """{"a":null,"b":null}""")
    equal(text(record()), "{}")
  }

  test("bytes that are no text become a text") {
    val broken = Literal(UTF8String.fromBytes(Array[Byte]('a', -1, '"')), StringType)
    equal(text(record("a" -> broken)), "{\"a\":\"a\uFFFD\\\"\"}")
  }

  test("the order is that of the values") {
    val shoe = FieldOrder.hash(UTF8String.fromString("\"shoe\""))
    val order = FieldOrder.byValue(1, Seq(shoe -> FixedOrder(Seq(1, 0))), FieldOrder.asWritten(2))
    def of(product: String) = text(record("body" -> Literal("b"), "product" -> Literal(product)).copy(order = order))
    equal(of("shoe"), """{"product":"shoe","body":"b"}""")
    equal(of("hat"), """{"body":"b","product":"hat"}""")
    equal(FieldOrder.byValue(1, Nil, FieldOrder.asWritten(2)), FieldOrder.asWritten(2))
  }

  test("records with different orders are different, equal ones equal") {
    val a = AttributeReference("a", StringType)()
    val b = AttributeReference("b", StringType)()
    val one = record("a" -> a, "b" -> b)
    def split(key: Long) = FieldOrder.byValue(0, Seq(key -> FixedOrder(Seq(1, 0))), FieldOrder.asWritten(2))
    equal(one.semanticEquals(one.copy(order = FixedOrder(Seq(1, 0)))), false)
    equal(one.copy(order = split(1)).semanticEquals(one.copy(order = split(1))), true)
    equal(one.copy(order = split(1)).semanticEquals(one.copy(order = split(2))), false)
  }

  test("as it is shown") {
    val a = AttributeReference("a", StringType)()
    equal(record("a" -> a, "n" -> Literal(1)).sql, "fields(a, 1 AS n)")
    equal(record("a" -> a, "n" -> Literal(1)).copy(order = FixedOrder(Seq(1, 0))).sql, "fields(1 AS n, a)")
  }
}
