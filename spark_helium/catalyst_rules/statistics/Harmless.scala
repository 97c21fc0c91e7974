package org.apache.spark.sql.helium.statistics

import org.apache.spark.sql.catalyst.catalog.HiveTableRelation
import org.apache.spark.sql.catalyst.expressions._
import org.apache.spark.sql.catalyst.plans.logical._
import org.apache.spark.sql.execution.LogicalRDD
import org.apache.spark.sql.execution.columnar.InMemoryRelation
import org.apache.spark.sql.execution.datasources.{HadoopFsRelation, LogicalRelation}
import org.apache.spark.sql.execution.datasources.v2.{DataSourceV2Relation, DataSourceV2ScanRelation, FileScan, FileTable}
import org.apache.spark.sql.execution.datasources.v2.python.PythonScan
import org.apache.spark.sql.helium.expressions.LLMCall

/**
 * Whether a plan may run while its query is planned: it reads, and does nothing else. EXPLAIN must send
 * no calls, and nothing else that costs somebody something.
 *
 * What is known to be so is listed: nodes of Spark's own over local data, files, Hive tables, tables of a
 * catalog, and caches that are made of these. An RDD may be that of a query with calls, or run a function of the
 * user's, and does not tell: the rows of a list that PySpark takes from the driver come out of a Python worker, too. So
 * only data that was checkpointed will do.
 */
object Harmless {

  /** What of the plan may do more than read; None where nothing does. */
  def obstacle(plan: LogicalPlan): Option[String] =
    ofNode(plan).orElse(plan.expressions.iterator.flatMap(ofExpression).nextOption())
      .orElse(plan.children.iterator.flatMap(obstacle).nextOption())

  private def ofNode(plan: LogicalPlan): Option[String] = plan match {
    case LogicalRelation(_: HadoopFsRelation, _, _, _, _) => None
    case _: LocalRelation | _: Range | _: OneRowRelation | _: HiveTableRelation | _: CTERelationRef => None
    case scan: DataSourceV2ScanRelation => scan.scan match {
      case _: FileScan => None
      case _: PythonScan => Some("a data source in Python may do more than read")
      case _ => ofTable(scan.relation.asInstanceOf[DataSourceV2Relation])
    }
    case relation: DataSourceV2Relation => ofTable(relation)
    case cached: InMemoryRelation => obstacle(cached.cacheBuilder.logicalPlan).map(why => s"to fill a cache: $why")
    case scan: LogicalRDD =>
      Option.unless(scan.rdd.isCheckpointedAndMaterialized)(
        "an RDD below may make calls, which a sample would send (localCheckpoint() would keep its rows)")
    case _: Project | _: Filter | _: Join | _: Union | _: Intersect | _: Except | _: Aggregate | _: Distinct |
        _: Deduplicate | _: Window | _: Expand | _: Generate | _: Sort | _: Sample | _: LocalLimit | _: GlobalLimit |
        _: Offset | _: Tail | _: RepartitionOperation | _: SubqueryAlias | _: View | _: ResolvedHint |
        _: WithCTE | _: CTERelationDef => None
    case other => Some(s"${other.nodeName} may do more than read")
  }

  private def ofTable(relation: DataSourceV2Relation): Option[String] = relation.table match {
    case _: FileTable => None
    case table if relation.catalog.isDefined && !table.getClass.getName.contains(".python.") => None
    case table => Some(s"${table.name} is a source that may do more than read")
  }

  private def ofExpression(expression: Expression): Option[String] = expression.collectFirst {
    case call: LLMCall => s"${call.function} runs below, and a sample would run it"
    case e @ (_: UserDefinedExpression | _: CallMethodViaReflection) => s"a user's function (${e.prettyName}) runs below"
    case subquery: SubqueryExpression if obstacle(subquery.plan).isDefined => obstacle(subquery.plan).get
  }
}
