package org.apache.spark.sql.helium

import org.apache.spark.sql.internal.SQLConf

/** The switches of the rules that rewrite LLM calls. */
object HeliumRule {

  /** Whether the rule `name` may run: its own switch, and the one of all rules. */
  def enabled(conf: SQLConf, name: String): Boolean =
    HeliumConf.boolean(conf, "spark.helium.optimizer.enabled") &&
      HeliumConf.boolean(conf, s"spark.helium.optimizer.$name.enabled")
}
