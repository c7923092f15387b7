"""The shared state of a team of agents: labelled entries, one commit log, transactions, effects, subscriptions."""
