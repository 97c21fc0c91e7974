package org.apache.spark.sql.helium.expressions

import com.fasterxml.jackson.core.io.JsonStringEncoder

import org.apache.spark.sql.catalyst.InternalRow
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.expressions.codegen.CodegenFallback
import org.apache.spark.sql.catalyst.expressions.json.StructsToJsonEvaluator
import org.apache.spark.sql.catalyst.json.JacksonUtils
import org.apache.spark.sql.types._
import org.apache.spark.unsafe.Platform
import org.apache.spark.unsafe.types.UTF8String

/**
 * `fields => struct(...)` in a prompt: a JSON object whose fields stand in the order that `order`
 * finds for the row.
 *
 * {{{
 *   {"product":"shoe","stars":4,"note":null}
 * }}}
 *
 * In the order as written it is the text of `to_json(struct(...))` with the option `ignoreNullFields` off.
 * Quotes, backslashes and control characters are escaped, so that no value can end its string and begin
 * a field of its own. A field that is NULL is written as null, and the record itself is never NULL.
 */
case class JsonRecord(
    names: Seq[String],
    values: Seq[Expression],
    order: FieldOrder,
    timeZoneId: Option[String] = None)
  extends Expression
  with CodegenFallback
  with TimeZoneAwareExpression {

  override def children: Seq[Expression] = values

  override def nullable: Boolean = false

  override def dataType: DataType = StringType

  override def prettyName: String = "fields"

  override def withTimeZone(timeZoneId: String): JsonRecord = copy(timeZoneId = Option(timeZoneId))

  @transient private lazy val beginnings: Array[Array[Byte]] =
    names.map(name => (JsonRecord.quoted(UTF8String.fromString(name)).toString + ":").getBytes("UTF-8")).toArray

  @transient private lazy val writers: Array[Any => UTF8String] =
    values.map(v => JsonRecord.writer(v.dataType, timeZoneId)).toArray

  /** The characters that each field takes beside its value: its name in quotes, colon and comma. */
  def overheads: Seq[Int] = names.map(_.length + 4)

  /** The values of a row as JSON. `row` holds the values themselves, in the order as written. */
  def texts(row: InternalRow): Array[UTF8String] =
    Array.tabulate(writers.length) { i =>
      writers(i)(if (row.isNullAt(i)) null else row.get(i, values(i).dataType))
    }

  override def eval(input: InternalRow): Any = {
    val texts = new Array[UTF8String](writers.length)
    var i = 0
    var size = 2 + (texts.length - 1).max(0)
    val each = values.iterator
    while (i < texts.length) {
      texts(i) = writers(i)(each.next().eval(input))
      size += beginnings(i).length + texts(i).numBytes()
      i += 1
    }
    written(texts, order.of(texts), size)
  }

  private def written(texts: Array[UTF8String], positions: Array[Int], size: Int): UTF8String = {
    val bytes = new Array[Byte](size)
    bytes(0) = '{'
    var at = 1
    var i = 0
    while (i < positions.length) {
      if (i > 0) {
        bytes(at) = ','
        at += 1
      }
      val beginning = beginnings(positions(i))
      System.arraycopy(beginning, 0, bytes, at, beginning.length)
      at += beginning.length
      val text = texts(positions(i))
      text.writeToMemory(bytes, Platform.BYTE_ARRAY_OFFSET + at)
      at += text.numBytes()
      i += 1
    }
    bytes(at) = '}'
    UTF8String.fromBytes(bytes)
  }

  override def toString: String = render(values.map(_.toString))

  override def sql: String = render(values.map(_.sql))

  private def render(shown: Seq[String]): String = {
    val items = order.usual.map { i =>
      val plain = values(i) match {
        case a: Attribute => a.name == names(i)
        case _ => false
      }
      if (plain) shown(i) else s"${shown(i)} AS ${names(i)}"
    }
    val more = if (order.size > 0) s"; other orders for ${FieldOrder.count(order)}" else ""
    items.mkString(s"$prettyName(", ", ", s"$more)")
  }

  override protected def withNewChildrenInternal(
      newChildren: IndexedSeq[Expression]): JsonRecord = copy(values = newChildren)
}

object JsonRecord {

  /** A record in the order as written. */
  def apply(items: Seq[(String, Expression)]): JsonRecord =
    JsonRecord(items.map(_._1), items.map(_._2), FieldOrder.asWritten(items.size))

  /** Whether Spark can write values of a type as JSON. */
  def writes(dataType: DataType): Boolean = JacksonUtils.verifyType("v", dataType).isSuccess

  private val nothing = UTF8String.fromString("null")

  /** How values of a type are written; the writer is for one thread. */
  private def writer(dataType: DataType, timeZoneId: Option[String]): Any => UTF8String = {
    val notNull: Any => UTF8String = dataType match {
      case _: StringType => v => quoted(v.asInstanceOf[UTF8String])
      case BooleanType | ByteType | ShortType | IntegerType | LongType =>
        v => UTF8String.fromString(v.toString)
      case other =>
        // Spark writes structs alone: the value is what stands between {"v": and }.
        val spark = StructsToJsonEvaluator(
          Map("ignoreNullFields" -> "false"), new StructType().add("v", other), timeZoneId)
        v => {
          val whole = spark.evaluate(InternalRow(v)).asInstanceOf[UTF8String].getBytes
          UTF8String.fromBytes(whole, 5, whole.length - 6)
        }
    }
    v => if (v == null) nothing else notNull(v)
  }

  /** A text as a JSON string. A column may hold bytes that are no text. */
  private[expressions] def quoted(text: UTF8String): UTF8String = {
    val valid = if (text.isValid) text else text.makeValid()
    var plain = true
    var i = 0
    while (plain && i < valid.numBytes()) {
      val byte = valid.getByte(i)
      plain = byte != '"' && byte != '\\' && (byte < 0 || byte >= ' ')
      i += 1
    }
    val inner = if (plain) valid.getBytes else JsonStringEncoder.getInstance().quoteAsUTF8(valid.toString)
    val bytes = new Array[Byte](inner.length + 2)
    bytes(0) = '"'
    System.arraycopy(inner, 0, bytes, 1, inner.length)
    bytes(bytes.length - 1) = '"'
    UTF8String.fromBytes(bytes)
  }
}
