package org.apache.spark.sql.helium

import scala.collection.mutable

import org.apache.spark.sql.helium.plans.RuleNote

/** Collects what the rules do while a report is made; nothing at any other time. */
object RuleTrace {

  private val current = new ThreadLocal[mutable.LinkedHashSet[RuleNote]]

  /** The value of `body`, and what the rules did on this thread meanwhile, each thing once. */
  def collecting[T](body: => T): (T, Seq[RuleNote]) = {
    val before = current.get
    val notes = mutable.LinkedHashSet.empty[RuleNote]
    current.set(notes)
    try (body, notes.toSeq) finally current.set(before)
  }

  def record(note: => RuleNote): Unit = if (current.get != null) current.get += note
}
