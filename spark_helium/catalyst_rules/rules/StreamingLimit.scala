package org.apache.spark.sql.helium.rules

import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.helium.plans.{EvalLLM, SharedCalls}

/** Nodes whose rows a limit above takes one by one, so that most of them may never be asked for. */
private[rules] object StreamingLimit {

  /** The nodes of a plan, by identity, that a limit reaches through operators that pass rows on. */
  class Nodes private[StreamingLimit] {

    private val found = new java.util.IdentityHashMap[EvalLLM, java.lang.Boolean]

    def contains(node: EvalLLM): Boolean = found.containsKey(node)

    private[StreamingLimit] def add(node: EvalLLM): Unit = found.put(node, true)
  }

  def nodesBelow(plan: LogicalPlan): Nodes = {
    val nodes = new Nodes
    def walk(plan: LogicalPlan, limited: Boolean): Unit = plan match {
      case node: EvalLLM =>
        if (limited) nodes.add(node)
        walk(node.child, limited)
      case _: LocalLimit | _: GlobalLimit | _: Offset => walk(plan.children.head, limited = true)
      // These read all of their input before the first row comes out.
      case Sort(_, true, _, _) | _: Aggregate | _: RepartitionOperation | _: SharedCalls | _: Window =>
        walk(plan.children.head, limited = false)
      case other => other.children.foreach(walk(_, limited))
    }
    walk(plan, limited = false)
    nodes
  }
}
