"""What is hidden and how a prediction is scored: small parts that recipes compose."""
