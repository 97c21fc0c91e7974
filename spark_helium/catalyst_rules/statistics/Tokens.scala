package org.apache.spark.sql.helium.statistics

/** Tokens as the planner counts them; it has no tokenizer. */
object Tokens {

  /** English text of today's tokenizers has about four characters to a token. */
  val charactersPerToken = 4.0

  /** What a chat template adds to one conversation: role marks and the start of the answer. */
  val chatOverhead = 12.0

  def of(characters: Double): Double = math.ceil(characters / charactersPerToken)
}
