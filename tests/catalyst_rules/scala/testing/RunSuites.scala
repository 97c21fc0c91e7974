package org.apache.spark.sql.helium.testing

import org.apache.spark.sql.helium._
import org.apache.spark.sql.helium.expressions._
import org.apache.spark.sql.helium.expressions.functions._
import org.apache.spark.sql.helium.plans._
import org.apache.spark.sql.helium.rules._
import org.apache.spark.sql.helium.statistics._

/** Runs every suite; exit code 1 when a test failed. */
object RunSuites {

  private def suites: Seq[HeliumSuite] = Seq(
    new HeliumConfSuite,
    new PromptTemplateSuite,
    new JsonRecordSuite,
    new AnswerSchemaSuite,
    new FunctionCatalogSuite,
    new LLMCallBuilderSuite,
    new ExtractionSchemaSuite,
    new QueriesSuite,
    new ClassificationSuite,
    new ExtractionSuite,
    new TextFunctionsSuite,
    new ScoresSuite,
    new EmbeddingsSuite,
    new AggregatesSuite,
    new FoldsSuite,
    new CallGraphSuite,
    new GlueSuite,
    new CallLevelsSuite,
    new CallLinesSuite,
    new EvalLLMSuite,
    new RewriteAIAggregatesSuite,
    new ExtractLLMCallsSuite,
    new RewriteTwoSidedJoinCallsSuite,
    new MergeEqualCallsSuite,
    new GuardConditionalCallsSuite,
    new DropImpliedGuardsSuite,
    new PushThroughEvalLLMSuite,
    new PruneUnusedCallsSuite,
    new PlanEstimatesSuite,
    new UnrolledEstimatesSuite,
    new FieldGroupsSuite,
    new OrderFieldsSuite,
    new PlaceCallsByCostSuite,
    new FuseCallGraphsSuite,
    new OrderLLMFiltersSuite,
    new ShareLLMSubplansSuite,
    new DeduplicateInputsSuite,
    new PlaceByPrefixSuite,
    new MaterializeDrawsSuite,
    new PaceForLimitSuite,
    new LLMFiltersSuite,
    new TournamentsSuite,
    new QueryEstimateSuite)

  def main(args: Array[String]): Unit = {
    val results = suites.flatMap(_.run())
    val failed = results.collect { case (name, Some(e)) => name -> e }
    failed.foreach { case (name, e) =>
      println(s"FAILED $name")
      e.printStackTrace(System.out)
    }
    println(s"${results.size - failed.size} passed, ${failed.size} failed")
    // Not exit(0): a non-daemon thread left behind would be a mistake worth seeing.
    if (failed.nonEmpty) System.exit(1)
  }
}
