package org.apache.spark.sql.helium.expressions

import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.types._

/**
 * Whether an expression is known to give a value for every row. Others, such as a division or a cast
 * of a text under ANSI, may end the query, and must not be computed for rows that the query's text
 * leaves out. Spark's `throwable` knows very few of them.
 */
object CannotFail {

  def apply(e: Expression): Boolean = isTotal(e) && e.children.forall(apply)

  private def isTotal(e: Expression): Boolean = e match {
    case _: Attribute | _: Literal | _: Alias | _: BinaryComparison | _: And | _: Or | _: Not |
        _: IsNull | _: IsNotNull | _: In | _: InSet | _: Coalesce | _: If | _: CaseWhen |
        _: Concat | _: ConcatWs | _: GetStructField | _: CreateArray | _: CreateNamedStruct |
        _: Upper | _: Lower | _: Length | _: StringTrim | _: StringTrimLeft | _: StringTrimRight |
        _: Substring | _: StartsWith | _: EndsWith | _: Contains | _: Size | _: JsonRecord |
        _: SortArray | _: ArrayDistinct | _: GetArrayStructFields => true
    case Cast(child, _: StringType, _, _) => child.dataType.isInstanceOf[AtomicType]
    case Cast(child, to, _, _) => Cast.canUpCast(child.dataType, to)
    case Remainder(_, Literal(n: Number, _), _) => n.doubleValue() != 0
    case Pmod(_, Literal(n: Number, _), _) => n.doubleValue() != 0
    case _ => false
  }
}
