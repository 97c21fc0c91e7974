package org.apache.spark.sql.helium.plans

/**
 * How many rows each task of a node asks first, because a limit above wants few of them. The task asks more, in
 * steps that grow, while nobody has hung up (`udf/worker.py`).
 *
 * @param wanted rows that the limit takes
 * @param first rows that are asked at first, at least one
 */
case class Pace(wanted: Int, first: Int) {

  override def toString: String =
    s"asks ${Pace.rows(first)} first, as only $wanted ${if (wanted == 1) "is" else "are"} wanted"
}

object Pace {

  /** So few calls make no engine busy. */
  private val fewest = 16

  /** @param dropping whether rows are dropped between the calls and the limit */
  def apply(wanted: Int, dropping: Boolean): Pace = {
    // Half of the rows pass, as PlanEstimates has it of a predicate that it knows nothing of.
    val first = if (dropping) (2L * wanted).max(fewest).min(Int.MaxValue).toInt else wanted.max(1)
    Pace(wanted, first)
  }

  private def rows(n: Int): String = if (n == 1) "1 row" else s"$n rows"
}
