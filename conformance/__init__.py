"""The conformance suite: contract, implementations under test, oracle, clause tests, reports."""
