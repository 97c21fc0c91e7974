"""Templated radix tree (TRT; the letters do not stand for TensorRT), token steps, and the order of the calls.

Pure data structures: nothing here imports Spark, torch, vLLM or the daemon. An *operator* is a call of a call graph;
a *call* is an operator applied to one row; a *worker* is one engine on one device.

=====================  ======================================================================================
``token_steps``        what an order of calls costs, exactly
``instance``           workloads and schedules as JSON
``orders``             fixed and greedy orders: query-wise, operator-wise, longest shared prefix, urgency
``search``             beam search, annealing and branch and bound over orders
``planner``            the best order of a workload whose calls are all known
``templates``          prompts as runs of tokens and placeholders
``graph_operators``    a query's call graph as operators with templates
``tree``               operators of all running queries in one tree, for planning and for pins
``call_tree``          prompts of the calls in flight: which call next, and what it shares
``estimates``          output lengths and selectivities, learned while a query runs
``ranking``            in which sequence the dispatcher should prefer calls, revised from estimates
``placement``          which worker runs a row
=====================  ======================================================================================
"""
