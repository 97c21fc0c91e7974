-- Statements in the spelling of Snowflake's documentation, as far as Spark's grammar has it: objects are
-- named_struct(...) and arrays array(...). Only tables and models have other names.

SELECT AI_COMPLETE('smollm2-135m', 'What are large language models?');

SELECT AI_COMPLETE('smollm2-135m', CONCAT('Critique this review in bullet points: <review>', content, '</review>'))
FROM reviews
LIMIT 2;

SELECT AI_COMPLETE(
         model => 'smollm2-135m',
         prompt => 'How does a snowflake get its unique pattern?',
         model_parameters => named_struct('temperature', 0.7, 'max_tokens', 10)
       );

SELECT AI_COMPLETE(
         model => 'smollm2-135m',
         prompt => 'Extract structured data from this customer interaction note: ' || content,
         response_format => '{
           "type": "json",
           "schema": {
             "type": "object",
             "properties": {
               "overall": {"type": "string", "enum": ["positive", "negative"]},
               "escalate": {"type": "boolean"}
             },
             "required": ["overall", "escalate"],
             "additionalProperties": false
           }
         }'
       ) AS note
FROM reviews;

SELECT AI_COMPLETE('smollm2-135m', PROMPT('Answer in {0}: {1}', language, question)) FROM questions;

SELECT AI_CLASSIFY('One day I will see the world', ARRAY('travel', 'cooking'));

SELECT AI_CLASSIFY(
         content,
         ARRAY(
           NAMED_STRUCT('label', 'travel', 'description', 'content related to traveling'),
           NAMED_STRUCT('label', 'cooking', 'description', 'content related to cooking'))
       ) AS label
FROM reviews;

SELECT AI_CLASSIFY(input => content, list_of_categories => ARRAY('praise', 'complaint', 'question')) AS kind, COUNT(*)
FROM reviews
GROUP BY kind;

SELECT AI_FILTER('Is Canada in North America?');

SELECT * FROM reviews WHERE AI_FILTER(CONCAT('The reviewer enjoyed the restaurant: ', content));

SELECT AI_FILTER(PROMPT('The reviewer enjoyed the restaurant: {0}', content)) AS enjoyed, content FROM reviews;

SELECT q.question, r.content
FROM questions q JOIN reviews r ON AI_FILTER(PROMPT('Does {0} answer the question {1}?', r.content, q.question));

SELECT AI_EXTRACT(
         text => 'John Smith lives in San Francisco and works for Snowflake',
         responseFormat => MAP('name', 'What is the first name of the employee?', 'city', 'What is the address?')
       );

SELECT AI_TRANSLATE(content, 'en', 'de') FROM reviews LIMIT 3;

SELECT AI_TRANSLATE(question, '', 'en') FROM questions;

SELECT AI_SENTIMENT(content) AS mood FROM reviews ORDER BY mood;

SELECT AI_AGG(content, 'Summarize the guest reviews in one sentence.') FROM reviews;

SELECT LENGTH(content) > 17 AS long, AI_AGG(content, 'Name the most frequent complaint.') FROM reviews GROUP BY long;

SELECT AI_SUMMARIZE_AGG(content) FROM reviews;

SELECT AI_SIMILARITY(content, 'a cold dish') AS nearness, content FROM reviews ORDER BY nearness DESC;

SELECT SIZE(AI_EMBED(content)) FROM reviews;

SELECT AI_COUNT_TOKENS(content) AS tokens FROM reviews;
