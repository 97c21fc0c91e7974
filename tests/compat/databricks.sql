-- Statements in the spelling of Databricks' documentation. Only tables and models have other names.

SELECT ai_gen('Generate a concise, cheerful email title for a summer bike sale with 20% discount');

SELECT question,
       ai_gen('You are a teacher. Answer the students question in 50 words: ' || question) AS answer
FROM questions;

SELECT ai_query('smollm2-135m', 'Describe Databricks SQL in 30 words.') AS summary;

SELECT text, ai_query('smollm2-135m', 'Summarize the given text comprehensively: ' || text) AS summary
FROM messages
LIMIT 3;

SELECT text,
       ai_query(
         'smollm2-135m',
         request => 'Summarize the given text comprehensively: ' || text,
         failOnError => false,
         modelParameters => named_struct('max_tokens', 100, 'temperature', 0.7)
       ) AS summary
FROM messages;

SELECT ai_query(
         endpoint => 'smollm2-135m',
         request => 'Extract research paper details from the following abstract: ' || text,
         responseFormat => 'STRUCT<research_paper_extraction: STRUCT<title: STRING, authors: ARRAY<STRING>, abstract: STRING>>'
       ) AS details
FROM messages;

SELECT ai_query(
         'smollm2-135m',
         'Who is this message from? ' || text,
         responseFormat => '{
           "type": "json_schema",
           "json_schema": {
             "name": "sender",
             "schema": {
               "type": "object",
               "properties": {"name": {"type": "string"}, "is_customer": {"type": "boolean"}},
               "required": ["name", "is_customer"],
               "additionalProperties": false
             },
             "strict": true
           }
         }'
       ) AS sender
FROM messages;

SELECT ai_query('smollm2-135m', 'How many words has this? ' || text, returnType => 'STRUCT<words: INT>').words
FROM messages;

SELECT ai_analyze_sentiment('I am happy');

SELECT ai_classify('My password is leaked.', ARRAY('urgent', 'not urgent'));

SELECT description, ai_classify(description, ARRAY('clothing', 'shoes', 'accessories', 'furniture')) AS category
FROM products
LIMIT 10;

SELECT ai_extract(
         'John Doe lives in New York and works for Acme Corp.',
         array('person', 'location', 'organization')
       );

SELECT ai_fix_grammar('This sentence have some mistake');

SELECT ai_mask('John Doe lives in New York. His email is john.doe@example.com.', array('person', 'email'));

SELECT ai_summarize(
         'Apache Spark is a unified analytics engine for large-scale data processing. '
           || 'It provides high-level APIs in Java, Scala, Python and R.',
         20
       );

SELECT ai_translate('Hello, how are you?', 'es');

CREATE OR REPLACE TEMPORARY VIEW angry AS
SELECT text, ai_analyze_sentiment(text) AS mood, ai_extract(text, array('product')).product AS product
FROM messages;

SELECT mood, count(*) AS messages FROM angry GROUP BY mood;

SELECT ai_similarity('Apache Spark', 'Apache Spark is a unified analytics engine');

SELECT a.description, b.description, ai_similarity(a.description, b.description) AS nearness
FROM products a JOIN products b ON a.description < b.description
ORDER BY nearness DESC
LIMIT 5;
