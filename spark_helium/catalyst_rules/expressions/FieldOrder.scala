package org.apache.spark.sql.helium.expressions

import java.util.Arrays

import scala.annotation.tailrec
import scala.collection.immutable.ArraySeq

import org.apache.spark.sql.catalyst.expressions.XXH64
import org.apache.spark.unsafe.types.UTF8String

/**
 * The order in which the fields of a record are written: a decision tree over the values of the row
 * and nothing else, so that equal rows are written alike wherever they stand.
 */
sealed trait FieldOrder {

  /** The order of a row, as positions of fields; not to be changed. `texts` are its values as JSON. */
  def of(texts: Array[UTF8String]): Array[Int]

  /** The order of a row none of whose values the tree asks for. */
  def usual: Seq[Int]

  /** How many values the tree asks for. */
  def size: Int
}

/** One order for all rows. */
case class FixedOrder(fields: Seq[Int]) extends FieldOrder {

  @transient private lazy val positions = fields.toArray

  override def of(texts: Array[UTF8String]): Array[Int] = positions

  override def usual: Seq[Int] = fields

  override def size: Int = 0
}

/**
 * Rows that have certain values in a field go on in the order for their value, all others in another.
 *
 * Values are known by their hash. Two that share one share an order, which is as good a text.
 *
 * @param keys hashes of the values, ascending
 * @param orders the order for each key
 */
case class OrderByValue(
    field: Int, keys: ArraySeq[Long], orders: IndexedSeq[FieldOrder], otherwise: FieldOrder)
  extends FieldOrder {

  override def of(texts: Array[UTF8String]): Array[Int] = FieldOrder.walk(this, texts)

  override def usual: Seq[Int] = otherwise.usual

  override lazy val size: Int = keys.size + orders.map(_.size).sum + otherwise.size

  // Hundreds of values are compared each time that Spark compares two calls.
  override lazy val hashCode: Int = scala.runtime.ScalaRunTime._hashCode(this)

  private[expressions] def next(texts: Array[UTF8String]): FieldOrder = {
    val at = Arrays.binarySearch(keys.unsafeArray.asInstanceOf[Array[Long]], FieldOrder.hash(texts(field)))
    if (at >= 0) orders(at) else otherwise
  }
}

object FieldOrder {

  def asWritten(fields: Int): FieldOrder = FixedOrder(0 until fields)

  /** The values that an order asks for, in words. */
  def count(order: FieldOrder): String = if (order.size == 1) "1 value" else s"${order.size} values"

  def hash(text: UTF8String): Long = XXH64.hashUTF8String(text, 0)

  /** A tree that asks for values of one field; `otherwise` itself where there are none. */
  def byValue(field: Int, orders: Iterable[(Long, FieldOrder)], otherwise: FieldOrder): FieldOrder = {
    val sorted = orders.toMap.toIndexedSeq.sortBy(_._1)
    if (sorted.isEmpty) otherwise
    else OrderByValue(field, ArraySeq.from(sorted.map(_._1)), sorted.map(_._2), otherwise)
  }

  @tailrec
  private[expressions] def walk(order: FieldOrder, texts: Array[UTF8String]): Array[Int] = order match {
    case fixed: FixedOrder => fixed.of(texts)
    case split: OrderByValue => walk(split.next(texts), texts)
  }
}
