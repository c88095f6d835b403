"""The clients of a load test and of a soak, and what is reported of them."""
